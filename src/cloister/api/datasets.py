"""Datasets: how one is brought in, looked at, shown, and made out of others.

In numbers and settings; the texts of `Chosen` alone come from a person, and go to the worker only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from cloister.api.rendering import LossOn, TemplateName
from cloister.api.words import Classification, Document, Name


class ColumnMap(Document):
    """Which columns of a table, or fields of flat JSON objects, make a row.

    `input` with `output`, or with `label` for a classification; or `text` alone, for plain text; or `messages`, a list
    of turns. Without any of them the format is recognised. `context` follows the input on a line of its own. `role`
    and `content` name the fields of a turn, `roles` says whose turn a role's is, where they are not the usual ones.
    `groups` are columns by which results are told apart later; `ignore` are further fields that a recognised
    JSON format, or a turn, may have.
    """

    input: str | None = None
    output: str | None = None
    label: str | None = None
    system: str | None = None
    text: str | None = None
    context: str | None = None
    messages: str | None = None
    role: str | None = None
    content: str | None = None
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(default={}, max_length=32)
    groups: tuple[str, ...] = Field(default=(), max_length=16)
    ignore: tuple[str, ...] = Field(default=(), max_length=64)


SourceFormat = Literal["auto", "jsonl", "json", "csv", "parquet", "text", "lines", "document"]
Encoding = Literal[
    "auto", "utf-8", "utf-16-le", "utf-16-be", "windows-1252", "windows-1250", "latin-1", "latin-9"
]


MAX_SOURCES = 200
"""Files of one import."""


class ImportConfig(Document):
    """How a source becomes a dataset.

    `source_name` is only for messages (`file:line: field: rule`); `more` are those of further files, whose rows follow
    the first one's. `max_dropped` is how many bad rows may be left out; 0 means that one bad row refuses the whole
    import. `holdout` is the share of rows (0 to 0.5) kept apart; identical inputs always land on one side. `format`
    says how rows are laid out; in the format `text` blank lines separate them, in `lines` each line is one, in
    `document` each file. `encoding` is that of text; `auto` takes what a byte-order mark says, else UTF-8.
    """

    source_name: str = Field(max_length=255)
    more: tuple[Annotated[str, StringConstraints(max_length=255)], ...] = Field(
        default=(), max_length=MAX_SOURCES - 1
    )
    format: SourceFormat = "auto"
    encoding: Encoding = "auto"
    columns: ColumnMap | None = None
    system_prompt: str | None = Field(default=None, max_length=16_384)
    holdout: float = Field(default=0.1, ge=0.0, le=0.5)
    max_dropped: int = Field(default=0, ge=0)
    max_row_bytes: int = Field(default=1 << 20, ge=1024, le=64 << 20)
    seed: int = 0


class ReportConfig(Document):
    """What is looked at. `quality`: lengths, balance, duplicates, conflicts, leakage. `personal`: personal data, in
    every `personal_every`-th row. `max_length` is in tokens of the base model that the job was given, if any; rows are
    rendered as a run with this `template` and `loss_on` would."""

    quality: bool = True
    personal: bool = False
    personal_every: int = Field(default=1, ge=1, le=1_000_000)
    max_length: int | None = Field(default=None, ge=8)
    template: TemplateName = "auto"
    loss_on: LossOn = "assistant"


PersonalType = Literal[
    "name", "address", "email", "phone", "iban", "card", "national_id", "birth_date", "record_number"
]

RowRange = tuple[Annotated[int, Field(ge=0, lt=1 << 53)], Annotated[int, Field(ge=0, lt=1 << 53)]]
"""Numbers of rows from 0, the first and the last."""

_Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class Chosen(Document):
    """By their content, which rows are taken: it goes to the worker only, the ledger has a keyed digest of it.

    A row is taken that has one of `labels`, in each of the `groups` one of its values, a text that each of
    `matching` finds something in, and none that one of `not_matching` does. Patterns are regular expressions.
    """

    labels: tuple[_Text, ...] = Field(default=(), max_length=10_000, repr=False)
    groups: dict[str, tuple[_Text, ...]] = Field(default={}, max_length=64, repr=False)
    matching: tuple[_Text, ...] = Field(default=(), max_length=64, repr=False)
    not_matching: tuple[_Text, ...] = Field(default=(), max_length=64, repr=False)


class DeriveConfig(Document):
    """How a dataset comes of others: rows chosen, rid of repeats, some of them drawn, corrected, rid of personal data.

    `rows` and `without` are ranges of numbers in the first dataset. `side` takes only that side. Lengths are in
    characters of a row's turns, or of its text. `corrections` says that a file of them comes as a descriptor.
    `personal`: a placeholder (`redact`) or a consistent made-up value (`replace`) for what is found of `types`.
    One dataset's rows keep their side; those of several are split anew.
    """

    side: Literal["all", "train", "holdout"] = "all"
    rows: tuple[RowRange, ...] = Field(default=(), max_length=10_000)
    without: tuple[RowRange, ...] = Field(default=(), max_length=10_000)
    min_characters: int = Field(default=0, ge=0)
    max_characters: int | None = Field(default=None, ge=1)
    corrections: bool = False
    personal: Literal["redact", "replace"] | None = None
    types: tuple[PersonalType, ...] = ()
    dedupe: Literal["exact", "near"] | None = None
    sample: int | None = Field(default=None, ge=1)
    seed: int = 0
    chosen: Chosen = Chosen()


MAX_SHOWN_ROWS = 100


class RowsConfig(Document):
    """Which rows a worker writes out, by number from 0; with `labels` also the names of the labels."""

    rows: tuple[Annotated[int, Field(ge=0, lt=1 << 53)], ...] = Field(default=(), max_length=MAX_SHOWN_ROWS)
    labels: bool = False

    @model_validator(mode="after")
    def _something(self) -> RowsConfig:
        if not self.rows and not self.labels:
            raise ValueError("name rows, or ask for the labels")
        return self


class DatasetImport(Document):
    """`classification` None takes that of the settings. A `dry_run` reads and reports; it makes no dataset."""

    name: Name
    config: ImportConfig
    classification: Classification | None = None
    dry_run: bool = False


class LengthFigures(BaseModel):
    """Lengths of rows. Those above 255 are counted in steps of 3%, and quantiles are as exact as that. `histogram` has
    the upper end of each step and how many rows are in it."""

    total: int
    shortest: int
    longest: int
    median: int
    p95: int
    p99: int
    histogram: list[tuple[int, int]]


class LabelFigures(BaseModel):
    """How many labels there are, and the rows of each, the most frequent first (100 of them at most)."""

    distinct: int
    rows: list[int]


class RepeatFigures(BaseModel):
    """Rows that equal an earlier one; inputs with more than one answer, and their rows; hold-out rows whose input
    is trained on. Where one content in `one_in` was followed, the counts are estimates."""

    one_in: int
    duplicates: int
    conflicting_inputs: int
    conflicting_rows: int
    leaked: int


class NearFigures(BaseModel):
    """Among `compared` rows: those that nearly are an earlier one, and hold-out rows that nearly are one trained on."""

    compared: int
    similar: int
    leaked: int
    first: list[int] = []


class PersonalFigures(BaseModel):
    """Personal data by type and by where it stands; `rows` of those `looked_at` have some. Detection, no guarantee."""

    looked_at: int
    rows: int
    found: dict[PersonalType, dict[str, int]]


class DatasetReport(BaseModel):
    """What there is to know of a dataset, in numbers. Rows are numbered from 0; `lost` counts by rule the rows that
    training would not take, `turns` rows by their number of turns (20: or more)."""

    rows: int
    train_rows: int
    holdout_rows: int
    task: str
    characters: LengthFigures | None = None
    turns: dict[int, int] = {}
    with_system: int = 0
    with_tools: int = 0
    plain_text: int = 0
    labels: LabelFigures | None = None
    empty_answers: int = 0
    first_empty: list[int] = []
    repeats: RepeatFigures | None = None
    near: NearFigures | None = None
    tokens: LengthFigures | None = None
    supervised_tokens: int = 0
    lost: dict[str, int] = {}
    first_lost: dict[str, list[int]] = {}
    personal: PersonalFigures | None = None


class ReportRequest(Document):
    """Look at a dataset; `base` names the model whose tokenizer counts."""

    config: ReportConfig = ReportConfig()
    base: str | None = Field(default=None, max_length=64)


class DeriveRequest(Document):
    """A new dataset `name` out of one dataset, and `others` merged with it. `classification` may be stricter than
    theirs, never milder."""

    name: Name
    config: DeriveConfig = DeriveConfig()
    others: tuple[Annotated[str, StringConstraints(max_length=64)], ...] = Field(default=(), max_length=16)
    classification: Classification | None = None


class ClassifyRequest(Document):
    """What a dataset is from now on. What was made of it follows."""

    classification: Classification
