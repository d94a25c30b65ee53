"""One trained, merged and served model for all the slow tests, made through the same sockets as real work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
from tests.conftest import Appliance, import_base, import_rows, short_run, start_appliance

from cloister import embedded
from cloister.api import ClientRequest, MergeConfig, MergeRequest, ServeConfig, ServeRequest
from cloister.demo.claims import generate

CANARY = "canary-9f41c07be2d85a6c"
ROWS = 400


@dataclass(frozen=True)
class Pipeline:
    """An appliance that serves `claims`, merged from run `first`; `api_key` may use it."""

    appliance: Appliance
    api_key: str
    url: str
    evaluation: dict[str, Any]
    merge: dict[str, Any]


@pytest.fixture(scope="session")
def claims() -> list[dict[str, Any]]:
    return list(islice(generate(ROWS, seed=7, canary=CANARY), ROWS))


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory, claims: list[dict[str, Any]]) -> Iterator[Pipeline]:
    appliance = start_appliance(tmp_path_factory.mktemp("pipeline") / "home")
    client = appliance.client
    try:
        import_rows(client, "claims", claims)
        import_base(client)
        run = client.start_run(short_run("first"))
        client.finished_job(run.train_job.job_id)
        evaluate_job = client.run("first").evaluate_job
        assert evaluate_job is not None
        evaluation = client.finished_job(evaluate_job.job_id).result
        request = MergeRequest(name="first", run="first", config=MergeConfig(max_rows=32))
        merge = client.finished_job(client.merge(request).job_id).result
        serve = ServeRequest(name="claims", model="first", config=ServeConfig(max_model_len=512))
        client.ready_deployment(client.serve(serve).deployment_id)
        api_key = client.issue_client(ClientRequest(name="desk")).api_key
        url = client.status().gateway_url
        assert url is not None
        yield Pipeline(appliance, api_key, url, evaluation, merge)
    finally:
        client.close()
        embedded.stop(appliance.home)
