"""The table in columns and as a page: figures with intervals, names only where given, nothing runs or is fetched."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import msgspec
from test_verdict import judged

from cloister.api import Costs
from cloister.evaluation import columns, general
from cloister.evaluation.page import page


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


MADE, SAID = judged(
    100,
    0.9,
    {"base": 0.1, "few-shot": 0.5},
    costs=Costs(hour=2.0, case=1.0),
    groups=[[list(range(60)), list(range(60, 100))]],
    general=general.compared(["x"] * 48, ["x"] * 48, 0),
)


def test_columns() -> None:
    heading, rows = columns.figures(MADE)
    assert heading == ["asked how", "exact match", "tuned is better by"]
    assert rows[1][0] == "base, few-shot" and re.fullmatch(r"50\.0% \[\d\d\.\d%, \d\d\.\d%\]", rows[1][1])
    assert re.fullmatch(r"40\.0 points \[\d\d\.\d, \d\d\.\d\]", rows[1][2]) and rows[2][2] == "-"
    line = MADE.lines[0]
    more = {"json_valid": line.figures["exact_match"], **line.figures}
    wider = msgspec.structs.replace(MADE, lines=[msgspec.structs.replace(line, figures=more)])
    assert columns.figures(wider)[0] == ["asked how", "exact match", "tuned is better by", "JSON valid"]
    text = columns.lines((heading, rows))
    assert len(text) == 4 and all(line.startswith(row[0]) for line, row in zip(text[1:], rows, strict=True))
    heading, rows = columns.effort(MADE)
    assert heading[-2:] == ["1,000 queries (EUR)", "tuning pays after"]
    assert rows[0][4] == "400 ms" and rows[2][-1] == "" and rows[-1][0] == "a person"
    unpriced = msgspec.structs.replace(
        MADE,
        training_cost=None,
        lines=[msgspec.structs.replace(line, pays_after=None) for line in MADE.lines],
    )
    assert columns.effort(unpriced)[1][0][-1] == "-", "what it would cost is not known: that is no never"
    assert "cut off" not in heading, "an evaluation from before answers were counted"
    counted = [msgspec.structs.replace(line, longest=40, cut=0.255) for line in MADE.lines]
    heading, rows = columns.effort(msgspec.structs.replace(MADE, lines=counted))
    assert heading[4:6] == ["answer tokens", "cut off"] and rows[0][4:6] == ["at most 40", "26%"]
    assert len({len(row) for row in (heading, *rows)}) == 1
    (found,) = columns.groups(MADE)
    assert found[0][:2] == ["group of column 1", "rows"] and [row[:2] for row in found[1]] == [
        ["1", "60"],
        ["2", "40"],
    ]
    (named,) = columns.groups(MADE, [{"column": "site", "groups": ["Ulm", "Oslo"]}])
    assert named[0][0] == "site" and named[1][1][0] == "Oslo"
    assert columns.general(MADE)[1][-1][0] == "all"


def test_a_page_runs_and_fetches_nothing_and_shows_names_only_where_given() -> None:
    facts = {"run": "<b>claims</b>", "id": "rn-1"}
    text = page(MADE, SAID, facts=facts, notes=["a note"])
    found = Tags(text)
    assert not found.tags & {"script", "img", "link", "iframe", "object", "b", "form", "a"}
    assert not found.attributes & {"src", "href", "onload", "onclick", "style"}
    assert (
        "default-src 'none'" in text and "url(" not in text and "http" not in text.replace("http-equiv", "")
    )
    assert "do not deploy" not in text and "better than few-shot prompting" in text and "a note" in text
    names = {
        "groups": [{"column": "site", "groups": ["Ulm & Co", "Oslo"]}],
        "labels": [{"label": "lost <card>", "rows": 3, "right": {"tuned": 1.0, "base": 0.0}}],
    }
    assert "Ulm" not in text and "lost" not in re.sub("What was lost|what was lost", "", text)
    shown = page(MADE, SAID, facts=facts, names=names)
    assert "Ulm &amp; Co" in shown and "lost &lt;card&gt;" in shown
