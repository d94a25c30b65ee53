"""Figures for Prometheus: well-formed, true, and without any name."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError
from tests.conftest import Appliance

from cloister import embedded
from cloister.api import ClientRequest
from cloister.home import Home
from cloister.policy import ApiSettings


def scrape(appliance: Appliance) -> tuple[str, dict[str, float]]:
    transport = httpx.HTTPTransport(uds=str(appliance.home.authority_socket))
    with httpx.Client(transport=transport, base_url="http://authority", timeout=60) as client:
        answer = client.get("/v1/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain")
    samples = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = sample.value
    return answer.text, samples


def test_they_are_true_and_hold_no_name(appliance: Appliance) -> None:
    appliance.client.issue_client(ClientRequest(name="secretive-desk"))
    text, before = scrape(appliance)
    assert "secretive" not in text and "root" not in text and str(appliance.home.root) not in text
    assert before["cloister_vault_open{}"] == 1
    assert before["cloister_jobs{state=running}"] == 0
    assert before["cloister_ledger_refuses{}"] == 0
    assert before["cloister_disk_free_bytes{}"] > 0
    assert before["process_resident_memory_bytes{}"] > 1e6
    appliance.client.issue_client(ClientRequest(name="another"))
    least = appliance.client.ledger().entries
    _, after = scrape(appliance)
    assert least <= after["cloister_ledger_entries_total{}"] <= appliance.client.ledger().entries
    assert after["cloister_ledger_entries_total{}"] > before["cloister_ledger_entries_total{}"]


def test_on_a_loopback_port_where_the_settings_open_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    root = Path(tempfile.mkdtemp(prefix="mp"))
    home = Home(root / "h")
    home.root.mkdir()
    home.settings_file.write_text(json.dumps({"api": {"metrics": address}}))
    try:
        embedded.start(home, gateway=False)
        answer = httpx.get(f"http://{address}/metrics", timeout=60)
        assert answer.status_code == 200 and "cloister_vault_open 0.0" in answer.text
        assert str(root) not in answer.text
        for path in ("/", "/v1/status", "/metrics/x", "/v1/metrics"):
            assert httpx.get(f"http://{address}{path}", timeout=60).status_code == 404
        assert httpx.post(f"http://{address}/metrics", timeout=60).status_code == 405
    finally:
        embedded.stop(home)
        shutil.rmtree(root)


@pytest.mark.parametrize(
    "address", ["0.0.0.0:9421", "192.168.1.1:9421", "127.0.0.1", "127.0.0.1:0", "x:1", "::1"]
)
def test_anything_but_loopback_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        ApiSettings(metrics=address)
    assert ApiSettings(metrics="[::1]:9421").metrics
