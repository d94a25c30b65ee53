"""A metric of the user's own over answers: its columns, and that no word of a row leaves with their names."""

from __future__ import annotations

import numpy as np
import pytest

from cloister.datasets.rows import Message, Row
from cloister.errors import JobFailed
from cloister.evaluation.own import columns, deciding
from cloister.evaluation.statistics import Floats
from cloister.sandbox.confine import Confined

ROWS = [Row((Message("user", "q"), Message("assistant", "secret")))] * 3


def measured(body: str) -> dict[str, Floats]:
    source = (
        f"seen = []\ndef m(prediction, expected, row):\n    seen.append(row)\n    return {body}\n".encode()
    )
    with Confined(source, "m") as function:
        return columns(function, "m", ["one", "two", "three"], ["secret"] * 3, ROWS, source)


def test_a_number_a_row_and_none_where_it_is_no_number() -> None:
    found = measured(
        "{'size': len(prediction), 'nan': float('nan'), 'first': 1} if len(seen) < 3 else {'size': 9}"
    )
    assert found["own.size"].tolist() == [3, 3, 9] and np.isnan(found["own.nan"]).all()
    assert found["own.first"][:2].tolist() == [1, 1] and np.isnan(found["own.first"][2])
    assert measured("prediction == 'two'")["own"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("body", ["{expected: 1}", "{'a b': 1}", "{'_': 1}", "{expected[0] + '_x': 1}"])
def test_a_name_that_is_not_written_in_the_file_is_refused(body: str) -> None:
    with pytest.raises(JobFailed) as caught:
        measured(body)
    assert "secret" not in str(caught.value) and "each written in its file" in str(caught.value.remedy)


def test_the_first_column_that_compares_decides() -> None:
    none, some, left = np.array([np.nan, np.nan]), np.array([1.0, np.nan]), np.array([np.nan, 2.0])
    usual = {"exact_match": np.ones(2)}
    assert deciding({"own.a": none, "own.b": some, **usual}, [{"own.a": some, "own.b": some}]) == "own.b"
    assert deciding({"own.a": some}, [{"own.a": none}, {"own.a": some}]) == "own.a"
    for tuned, other in ((none, some), (some, left), (some, none)):
        assert deciding({"own": tuned, **usual}, [{"own": other, **usual}]) is None
    assert deciding({"own.a": some}, [usual]) is None
