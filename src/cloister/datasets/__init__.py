"""Datasets: formats, validation, the canonical sealed form, its reader, rendering and batching.

A plain library: knows nothing of users, sockets, policy, or models beyond a tokenizer it is handed.
"""

from cloister.datasets.batching import plan_epoch
from cloister.datasets.canonical import DatasetMeta, DatasetWriter, Nowhere
from cloister.datasets.importing import ImportSummary, import_rows
from cloister.datasets.problems import Problem
from cloister.datasets.reader import DatasetReader
from cloister.datasets.render import Rendered, prompt_ids, render, render_all
from cloister.datasets.rows import Message, Row

__all__ = [
    "DatasetMeta",
    "DatasetReader",
    "DatasetWriter",
    "ImportSummary",
    "Message",
    "Nowhere",
    "Problem",
    "Rendered",
    "Row",
    "import_rows",
    "plan_epoch",
    "prompt_ids",
    "render",
    "render_all",
]
