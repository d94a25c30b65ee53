"""The verb `import` in a real worker process: a descriptor in, a sealed dataset out."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cloister.api import Grant, JobDocument
from cloister.datasets import DatasetReader

SECRET = "Zanzibar-4711"
KEY = bytes(range(32))


def work(job: JobDocument) -> tuple[int, list[dict[str, object]]]:
    """Run a worker on `job`; exit status and its events."""
    done = subprocess.run(
        [sys.executable, "-m", "cloister.worker"],
        input=job.model_dump_json().encode(),
        stdout=subprocess.PIPE,
        pass_fds=list(job.descriptors.values()),
        env={**os.environ, "CLOISTER_SANDBOX": "none", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def dataset_job(tmp_path: Path, source: bytes, **config: object) -> tuple[JobDocument, Path]:
    (tmp_path / "source").write_bytes(source)
    report = tmp_path / "report"
    descriptors = {
        "source": os.open(tmp_path / "source", os.O_RDONLY),
        "report": os.open(report, os.O_WRONLY | os.O_CREAT, 0o600),
    }
    grant = Grant(
        object_id="ds-000000000001",
        kind="dataset",
        path=str(tmp_path / "out"),
        key=base64.b64encode(KEY).decode(),
    )
    document = {"source_name": "claims.csv", "holdout": 0.25, **config}
    job = JobDocument(
        job_id="jb-000000000001", verb="import", config=document, output=grant, descriptors=descriptors
    )
    return job, report


COLUMNS = {"input": "text", "label": "category"}


def test_a_table_becomes_a_sealed_dataset(tmp_path):
    table = b"text,category\n" + b"".join(b"%s %d,c%d\n" % (SECRET.encode(), n, n % 3) for n in range(400))
    job, report = dataset_job(tmp_path, table, columns=COLUMNS)
    status, events = work(job)
    assert (status, events[-1]["event"]) == (0, "result")
    values = events[-1]["values"]
    assert (values["rows"], values["labels"], values["task"]) == (400, 3, "classification")
    assert report.read_bytes() == b""
    with DatasetReader(tmp_path / "out", key=KEY, object_id="ds-000000000001") as reader:
        assert reader[7].messages[0].content == f"{SECRET} 7"
        assert (
            reader.manifest.counts["holdout_rows"] == len(reader.indices("holdout")) == values["holdout_rows"]
        )
    assert SECRET not in json.dumps(events)


def test_parquet_is_redacted_on_its_way_in_where_the_settings_ask_for_it(tmp_path):
    out = io.BytesIO()
    pq.write_table(pa.table({"text": [f"mail {SECRET}@example.org now"], "category": ["c"]}), out)
    job, _ = dataset_job(tmp_path, out.getvalue(), columns=COLUMNS, holdout=0, personal="redact")
    status, events = work(job)
    assert (status, events[-1]["event"]) == (0, "result")
    with DatasetReader(tmp_path / "out", key=KEY, object_id="ds-000000000001") as reader:
        assert reader[0].messages[0].content == "mail [EMAIL] now"


def test_bad_rows_go_to_the_report_and_the_first_fifty_into_the_failure(tmp_path):
    table = b"text,category\n" + b"".join(b"%s,\n" % SECRET.encode() for _ in range(120))
    job, report = dataset_job(tmp_path, table, columns=COLUMNS)
    status, events = work(job)
    failure = events[-1]
    assert (status, failure["event"], failure["code"]) == (2, "failure", "invalid-input")
    assert failure["where"] == "claims.csv"
    assert failure["values"]["bad_rows"] == failure["values"]["problems"] == 120
    lines = report.read_text().splitlines()
    assert lines == [f"claims.csv:{n}: category: is empty" for n in range(2, 122)]
    assert failure["values"]["first_problems"] == lines[:50]
    assert SECRET not in json.dumps(events)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_report_that_nobody_reads_is_no_reason_to_fail(tmp_path):
    job, _ = dataset_job(tmp_path, b'{"prompt":"a","completion":"b"}\n{"prompt":""}\n', max_dropped=1)
    ours, theirs = os.pipe()
    os.close(ours)
    job = job.model_copy(update={"descriptors": {**job.descriptors, "report": theirs}})
    status, events = work(job)
    assert (status, events[-1]["values"]["dropped"]) == (0, 1)
