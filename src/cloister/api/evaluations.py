"""Measuring a run's adapter: base against tuned, and the whole table with its costs.

Knows no run: a run names what it is measured with.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from cloister.api.words import LARGEST, Document, Seed


class Costs(Document):
    """Prices, from the settings: `hour` of the device, `case` what a person's minutes on one case cost, `preparation`
    what it took to make the data ready."""

    currency: str = "EUR"
    hour: float | None = None
    case: float | None = None
    preparation: float | None = None


class TableConfig(Document):
    """The whole table: prompting, retrieval, and a larger base where one is granted.

    `few_shot` and `retrieve` are examples before a question, fewer where they do not fit; 0 leaves the line out.
    On `alike_rows` rows each question is asked again: `repeat` times at temperature 0.7, and in other words.
    An untuned model's answers are cut off at `untuned_tokens`, None: four times the longest expected one or 128 more.
    `metric` names a function of the file that is handed over, whose SHA-256 is `metric_sha256`; so of a glossary.
    """

    few_shot: int = Field(default=8, ge=0, le=256)
    retrieve: int = Field(default=8, ge=0, le=256)
    repeat: int = Field(default=2, ge=0, le=100)
    alike_rows: int = Field(default=24, ge=0, le=10_000)
    untuned_tokens: int | None = Field(default=None, ge=1, le=4096)
    general: bool = True
    metric: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    metric_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    glossary_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _file_and_function(self) -> TableConfig:
        if (self.metric is None) != (self.metric_sha256 is None):
            raise ValueError("a metric is a function and the digest of its file")
        return self


class EvaluateConfig(Document):
    """Base against tuned on the hold-out, with `table` the whole comparison. `max_rows` 0 means every row of it.

    Answers are cut off at `max_new_tokens`; None: at 16 more than the longest expected one has. `costs` are the
    authority's to fill in.
    """

    max_rows: int = Field(default=0, ge=0, le=LARGEST)
    max_new_tokens: int | None = Field(default=None, ge=1, le=4096)
    batch_size: int = Field(default=64, ge=1, le=LARGEST)
    seed: Seed = 0
    table: TableConfig | None = None
    costs: Costs | None = None


class ErrorsConfig(Document):
    """The rows of an evaluation that the tuned model answered worst: so many, the worst first."""

    worst: int = Field(default=10, ge=1, le=1000)


class EvaluationRequest(Document):
    """Measure a run's adapter again. `larger` is another base model to set against it, by name or id.

    The files that its table names by digest follow as descriptors, roles `metric` and `glossary`.
    """

    config: EvaluateConfig = EvaluateConfig(table=TableConfig())
    larger: str | None = Field(default=None, max_length=64)
