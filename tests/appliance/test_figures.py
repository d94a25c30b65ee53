"""Figures for Prometheus: well-formed, true, and without any name."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import Appliance

from cloister.api import ClientRequest


def scrape(appliance: Appliance) -> tuple[str, dict[str, float]]:
    transport = httpx.HTTPTransport(uds=str(appliance.home.authority_socket))
    with httpx.Client(transport=transport, base_url="http://authority") as client:
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
    _, after = scrape(appliance)
    assert after["cloister_ledger_entries_total{}"] == appliance.client.ledger().entries
    assert after["cloister_ledger_entries_total{}"] > before["cloister_ledger_entries_total{}"]
