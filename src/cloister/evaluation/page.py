"""The evaluation as one HTML page: no script, nothing fetched, no content of a row.

Names of labels and groups are content: they are there only where whoever may read them gave them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cloister.evaluation import columns
from cloister.evaluation.columns import Columns
from cloister.evaluation.table import Table
from cloister.evaluation.verdict import HEADLINES, Verdict

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1a1a1a }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
.verdict { border-left: 4px solid #777; padding: .2rem 1rem; background: #f6f6f6 }
.deploy { border-color: #2a7d46 } .do-not-deploy { border-color: #a33 } .cannot-tell, .weigh { border-color: #b8860b }
footer { margin-top: 2rem; color: #666; font-size: .85rem }
"""


def page(
    table: Table,
    said: Verdict,
    *,
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
    names: Mapping[str, Any] | None = None,
) -> str:
    """The page. `facts` are what it is about, by name; `names` has the `groups` and `labels` of the sealed report."""
    names = names or {}
    parts = [
        f"<h1>{escape(facts.get('run', 'An evaluation'))}: was it worth it?</h1>",
        f'<div class="verdict {said.advice}"><p><strong>{HEADLINES[said.advice]}</strong></p>',
        *(f"<p>{escape(sentence)}</p>" for sentence in said.sentences),
        "</div>",
        f"<h2>On {table.rows} held-out rows, the same for all, with 95% intervals</h2>",
        _html(columns.figures(table)),
        f"<h2>What a query takes, in {escape(table.timed_with)}</h2>",
        _html(columns.effort(table)),
    ]
    for found in columns.groups(table, names.get("groups", ())):
        parts += ["<h2>By group</h2>", _html(found)]
    if names.get("labels"):
        parts += ["<h2>By label</h2>", _html(columns.labels(table, names["labels"]))]
    if table.general is not None:
        parts += ["<h2>What was lost</h2>", _html(columns.general(table))]
    if notes:
        parts += ["<h2>Notes</h2><ul>", *(f"<li>{escape(note)}</li>" for note in notes), "</ul>"]
    told = ", ".join(f"{escape(name)} {escape(value)}" for name, value in facts.items())
    parts.append(f"<footer>{told}. No row, question or answer is in this page.</footer>")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(facts.get('run', 'Evaluation'))}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _html(found: Columns) -> str:
    heading, rows = found
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
