"""Requests counted from the gateway's ledger."""

from __future__ import annotations

from datetime import timedelta

from recorded import NOW, Recorded

from cloister.console.traffic import count


def test_what_was_asked_is_counted_by_deployment() -> None:
    entries = Recorded().search_ledger(ledger="gateway").entries
    [(deployment, traffic)] = count(entries, NOW).items()
    assert deployment == "dp-cccccccccccc"
    assert (traffic.requests, traffic.per_s, traffic.tokens_per_s) == (150, 0.5, 20)
    assert traffic.failed == 1 and not traffic.at_least
    assert 0.5 < traffic.median_s < 0.6 and 0.67 < traffic.slow_s < 0.7


def test_what_is_older_does_not_count_and_what_was_cut_says_so() -> None:
    entries = Recorded().search_ledger(ledger="gateway").entries
    assert count(entries, NOW + timedelta(minutes=6)) == {}
    half = count(entries[75:], NOW, more=True)["dp-cccccccccccc"]
    assert half.at_least and half.requests == 75 and 0.49 < half.per_s < 0.52
