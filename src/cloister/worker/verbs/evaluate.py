"""The verb `evaluate`: base against tuned on the hold-out, and where asked for the whole table with its verdict.

The pair is two lines of that table, and measured the same way. Loads once, switches the adapter off and on; a larger
base comes last, when the tuned model is gone. Knows which numbers there are, not how they are computed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cloister.api import EvaluateConfig, JobDocument, TableConfig
from cloister.datasets.rows import Row
from cloister.errors import InvalidInput, JobFailed
from cloister.evaluation import general, own, prompts, table
from cloister.evaluation.generate import decode, greedy
from cloister.evaluation.loss import mean_loss, row_losses
from cloister.evaluation.metrics import Glossary
from cloister.evaluation.report import Sample, compare, encode_samples, score
from cloister.evaluation.table import Measured
from cloister.evaluation.tasks import Scored, Task, instruction_of, task_of, with_labels
from cloister.evaluation.verdict import verdict
from cloister.models.load import load_base
from cloister.sandbox.confine import Confined
from cloister.training.rows import RowSource, TokenRows, tokenise
from cloister.worker.verbs import measuring, opening
from cloister.worker.verbs.asking import Asked, Asking, Model

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter

POOL = 20_000
"""So many training rows, a seeded choice where there are more, are where examples come from."""
MAX_FILE = 1 << 20
MOST_GROUPS = 64
SPARE_TOKENS = 16
"""An answer that is longer than any expected one by more than that is cut off: it is wrong already."""


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Measure; returns the report's numbers."""
    config = EvaluateConfig.model_validate(job.config)
    files = _files(job, config.table)
    measuring.prepare_torch(job)
    with ExitStack() as stack:
        given = measuring.open_measured(job, stack, max_rows=config.max_rows, seed=config.seed)
        larger = stack.enter_context(opening.open_object(job, "larger")) if "larger" in job.inputs else None
        writer = opening.open_writer(job)
        holdout = given.holdout
        rows = [holdout.row(i) for i in range(len(holdout))]
        task = task_of(
            rows, holdout.name, Glossary(files["glossary"].decode()) if "glossary" in files else None
        )
        metric = None
        if config.table is not None and config.table.metric is not None:
            if task.kind == "text":
                raise InvalidInput(
                    "a metric of one's own is of answers, and plain texts have none",
                    where=holdout.name,
                    remedy="Leave --metric out: texts are told by their loss.",
                )
            metric = stack.enter_context(Confined(files["metric"], config.table.metric))
        emit.progress("load", 0, 1)
        given.base.check(full=True)
        tuned = measuring.load_tuned(job, given.base, given.adapter)
        emit.progress("load", 1, 1)

        bench = _Bench(rows, task, tokenise(holdout, tuned.tokenizer, tuned.max_length), tuned, config, emit)
        bench.measure_pair()
        values = compare(bench.scores("base"), bench.scores("tuned"), len(rows))
        lines, primary = bench.lines, task.primary
        secret: dict[str, Any] = {}
        if config.table is not None:
            pool = _pool(given, config.seed) if task.kind != "text" else []
            bench.measure_prompting(pool, config.table)
            compared = bench.general_check() if config.table.general else None
            training_s = _training_seconds(given.adapter)
            if larger is not None:
                method = given.adapter.manifest.details["method"]
                del tuned
                bench.forget_tuned()
                bench.measure_larger(*load_base(larger, method=method, device=job.device), pool, config.table)
            lines = bench.lines
            if metric is not None:
                lines = [_with_own(one, metric, config.table.metric or "", rows) for one in lines]
                primary = next(name for name in lines[0].scored.columns if name.startswith("own"))
            columns, positions = _groups(rows)
            if len(columns) < len({name for row in rows for name in row.groups}):
                bench.notes.append(f"A column with more than {MOST_GROUPS} groups was left out.")
            if len(bench.tokens) != len(rows):
                columns, positions = [], []
                bench.notes.append(
                    "Long texts are read in windows, which count one by one, and not by group."
                )
            made = table.build(
                bench.task,
                lines,
                primary=primary,
                groups=positions,
                general=compared,
                costs=config.costs,
                training_s=training_s,
                seed=config.seed,
            )
            said = verdict(made)
            values["full"] = {
                "table": table.plain(made),
                "verdict": msgspec.to_builtins(said),
                "bounds": {**table.bounds(made), "advice": said.advice},
                "notes": bench.notes,
            }
            secret = {"groups": columns, "labels": _by_label(bench.task, lines)}
        with writer.create("report.json") as file:
            file.write(msgspec.json.encode({"config": job.config, **values, **secret}))
        with writer.create("samples.bin") as file:
            file.write(encode_samples(_samples(holdout, rows, bench, lines, primary)))
        opening.finish(writer, job, counts={"rows": len(rows)}, details=values)
        return values


class _Bench:
    """The hold-out, rendered once, ready to measure one model after another on it."""

    def __init__(
        self,
        rows: Sequence[Row],
        task: Task,
        tokens: TokenRows,
        tuned: measuring.Tuned,
        config: EvaluateConfig,
        emit: Emitter,
    ) -> None:
        self.rows, self.task, self.tokens, self.config, self.emit = rows, task, tokens, config, emit
        self.lines: list[Measured] = []
        self.notes: list[str] = []
        self._losses: dict[str, float] = {}
        self._pair: dict[str, Asked] = {}
        self._peft = tuned.model
        self._tuned = Model(tuned.model, tuned.tokenizer, self._most_new_tokens(tuned), config.batch_size)
        self._plain = prompts.plain(rows, tuned.tokenizer) if task.kind != "text" else None

    def _most_new_tokens(self, tuned: measuring.Tuned) -> int:
        most = self.config.max_new_tokens
        if self.config.table is None or self.task.kind == "text":
            return most
        lengths = [
            len(ids)
            for ids in tuned.tokenizer(list(self.task.expected), add_special_tokens=False)["input_ids"]
        ]
        return min(most, max(lengths) + SPARE_TOKENS)

    # --- base against tuned ------------------------------------------------------------------

    def measure_pair(self) -> None:
        """Losses and answers of both, as each row stands."""
        for name, switch in ((table.BASE, self._peft.disable_adapter()), (table.TUNED, nullcontext())):
            with switch:
                if self._plain is None:
                    self._measure_texts(name)
                    continue
                self._losses[name] = self._loss(name)
                asked = self._plain.input_ids
                self._pair[name] = self._tuned.ask(name, asked, self.emit, after=len(asked))

    def scores(self, name: str) -> Any:
        """One of the pair in numbers."""
        labels = [row.label or "" for row in self.rows] if self.task.labels is not None else None
        answers = self._pair[name].answers if name in self._pair else []
        return score(self._losses[name], answers, self.task.expected, labels)

    def answers(self, name: str) -> list[str]:
        return self._pair[name].answers if name in self._pair else [""] * len(self.rows)

    def _loss(self, name: str) -> float:
        model, size = self._peft, self.config.batch_size
        device = next(model.parameters()).device
        return mean_loss(
            model,
            (self.tokens.batch(indices, device) for indices in self.tokens.by_length(size)),
            on_batch=lambda done: self.emit.progress(name, done, 2 * len(self.tokens)),
            should_stop=self.emit.should_stop,
        )

    def _measure_texts(self, name: str, model: Any = None, tokens: TokenRows | None = None) -> None:
        """Plain text: nothing is asked, every row's loss counts."""
        model, tokens = model or self._peft, tokens or self.tokens
        device = next(model.parameters()).device
        nats, counts = row_losses(
            model,
            (tokens.batch([i], device) for i in range(len(tokens))),
            on_batch=lambda done: self.emit.progress(name, done, len(self.rows)),
            should_stop=self.emit.should_stop,
        )
        self._losses[name] = sum(nats) / sum(counts)
        length = float(tokens.lengths.mean())
        self.lines.append(Measured(name, prompt_tokens=length, nats=tuple(nats), counts=tuple(counts)))

    # --- the table ------------------------------------------------------------------------------

    def measure_prompting(self, pool: Sequence[Row], config: TableConfig) -> None:
        """The base asked well, three ways, and the tuned model asked as it learnt."""
        if self._plain is None:
            self.notes.append(
                "Plain text has no question to put examples before: the lines are told apart by loss."
            )
            return
        self.task = with_labels(self.task, [row.label for row in pool if row.label is not None])
        asking = self._asking(config)
        self._prompted(asking, self._tuned, self._peft.disable_adapter, pool, config, "")
        self.lines.append(
            asking.measure(table.TUNED, self._tuned, nullcontext(), self._plain, self._pair[table.TUNED])
        )

    def measure_larger(self, model: Any, tokenizer: Any, pool: Sequence[Row], config: TableConfig) -> None:
        """Another base, untuned, asked well."""
        if self._plain is None:
            self.notes.append("A larger base is not set against plain text: its tokens are others.")
            return
        larger = Model(model, tokenizer, self._tuned.max_new_tokens, self.config.batch_size)
        self._prompted(self._asking(config), larger, nullcontext, pool, config, table.LARGER)

    def forget_tuned(self) -> None:
        """Let go of the tuned model's memory."""
        self._peft = None
        self._tuned = replace(self._tuned, model=None)

    def general_check(self) -> general.General | None:
        """The shipped questions, before and after."""
        model, tokenizer = self._tuned.model, self._tuned.tokenizer
        try:
            asked = prompts.plain(general.rows(), tokenizer)
        except InvalidInput:
            self.notes.append("The chat template takes no plain question: the general check was left out.")
            return None
        answers = []
        for switch in (self._peft.disable_adapter(), nullcontext()):
            with switch:
                made = greedy(
                    model,
                    tokenizer,
                    asked.input_ids,
                    general.MAX_NEW_TOKENS,
                    self.config.batch_size,
                    on_progress=lambda done, total: self.emit.progress("general check", done, total),
                    should_stop=self.emit.should_stop,
                )
                answers.append(decode(tokenizer, made))
        return general.compared(answers[0], answers[1], self.config.seed)

    def _asking(self, config: TableConfig) -> Asking:
        return Asking(self.task, config.alike_rows, config.repeat, self.config.seed, self.emit)

    def _prompted(
        self,
        asking: Asking,
        model: Model,
        switch: Any,
        pool: Sequence[Row],
        config: TableConfig,
        prefix: str,
    ) -> None:
        """With the instruction, with examples after it, and (for the base itself) with the nearest ones."""
        wanted = instruction_of(self.task, pool)
        most, tokenizer, seed = model.most_tokens, model.tokenizer, self.config.seed
        none: list[Sequence[Row]] = [()] * len(self.rows)
        bare = prompts.fitted(self.rows, tokenizer, most, instruction=wanted, examples=none)
        if wanted is not None and not bare.instructed:
            self.notes.append(
                "The instruction that names the labels does not fit into the context: it was left out."
            )
        instruction = wanted if bare.instructed else None
        done = self._pair.get(table.BASE) if not prefix and instruction is None else None
        self.lines.append(asking.measure(prefix or table.BASE, model, switch(), bare, done))
        if config.few_shot and pool:
            shots = prompts.few_shot(pool, config.few_shot, seed)
            given = prompts.alike_for_all(self.rows, tokenizer, most, instruction=instruction, examples=shots)
            if given.examples < len(shots):
                self.notes.append(f"Of {len(shots)} examples {given.examples:g} fit into the context.")
            if given.examples:
                name = table.LARGER_FEW_SHOT if prefix else table.FEW_SHOT
                self.lines.append(asking.measure(name, model, switch(), given))
        if config.retrieve and pool and not prefix:
            near = prompts.Retriever(pool).nearest(self.rows, config.retrieve)
            given = prompts.fitted(self.rows, tokenizer, most, instruction=instruction, examples=near)
            if instruction is not None and given.examples < len(
                near[0]
            ):  # examples tell more than the instruction
                bare = prompts.fitted(self.rows, tokenizer, most, instruction=None, examples=near)
                given = max(given, bare, key=lambda made: made.examples)
            if given.examples:
                self.lines.append(asking.measure(table.RETRIEVAL, model, switch(), given))


def _files(job: JobDocument, wanted: TableConfig | None) -> dict[str, bytes]:
    """The user's own files, each the one whose digest was entered into the ledger."""
    digests = {
        "metric": wanted.metric_sha256 if wanted is not None else None,
        "glossary": wanted.glossary_sha256 if wanted is not None else None,
    }
    found = {}
    for role, digest in digests.items():
        if digest is None:
            continue
        if role not in job.descriptors:
            raise JobFailed(
                f"The file of the {role} was handed over for an earlier attempt, and is gone.",
                remedy="Ask for the evaluation again: `cloister evaluate RUN`.",
            )
        with os.fdopen(job.descriptors[role], "rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE or hashlib.sha256(data).hexdigest() != digest:
            raise InvalidInput("The file is not the one that was announced.", where=role)
        found[role] = data
    return found


def _pool(given: measuring.Measured, seed: int) -> list[Row]:
    """The training rows that examples are taken from."""
    source = RowSource(given.dataset, given.dataset.indices("train"), "the dataset")
    learnt = given.adapter.manifest.details  # examples come from the rows that the run had, and no others
    source = measuring.nested(source, int(learnt.get("max_rows", 0)), int(learnt.get("seed", 0)))
    chosen = measuring.sample(source, POOL, seed)
    rows = (chosen.row(i) for i in range(len(chosen)))
    return [row for row in rows if row.text is None]


def _training_seconds(adapter: Any) -> float | None:
    found = msgspec.json.decode(adapter.read("history.json")).get("seconds")
    return float(found) if isinstance(found, int | float) else None


def _with_own(line: Measured, metric: Confined, name: str, rows: Sequence[Row]) -> Measured:
    columns = own.columns(metric, name, line.answers, rows)
    return replace(line, scored=Scored({**columns, **line.scored.columns}, line.scored.said))


def _groups(rows: Sequence[Row]) -> tuple[list[dict[str, Any]], list[list[list[int]]]]:
    """The columns that the steward named with their groups, which are content, and the rows of each group."""
    columns: list[dict[str, Any]] = []
    positions: list[list[list[int]]] = []
    for name in sorted({name for row in rows for name in row.groups}):
        values = sorted({row.groups.get(name, "") for row in rows})
        if len(values) > MOST_GROUPS:
            continue
        columns.append({"column": name, "groups": values})
        places: dict[str, list[int]] = {value: [] for value in values}
        for i, row in enumerate(rows):
            places[row.groups.get(name, "")].append(i)
        positions.append([places[value] for value in values])
    return columns, positions


def _by_label(task: Task, lines: Sequence[Measured]) -> list[dict[str, Any]]:
    """Of each label the share that each line got right. Labels are content."""
    if task.labels is None:
        return []
    found = []
    for number, name in enumerate(task.labels.names):
        those = [i for i, wanted in enumerate(task.wanted) if wanted == number]
        if those:
            right = {one.name: sum(one.scored.said[i] == number for i in those) / len(those) for one in lines}
            found.append({"label": name, "rows": len(those), "right": right})
    return found


def _samples(
    holdout: RowSource, rows: Sequence[Row], bench: _Bench, lines: Sequence[Measured], primary: str
) -> list[Sample]:
    """Every row with all answers to it; `right` by the deciding figure."""
    tuned = next((line for line in lines if line.name == table.TUNED), None)
    scored = tuned.scored if tuned is not None else bench.task.score(bench.answers(table.TUNED))
    right = scored.columns.get(primary)
    others = [line for line in lines if line.name != table.TUNED and line.answers]
    return [
        Sample(
            int(holdout.indices[i]),
            row.answer if row.text is None else "",
            bench.answers(table.BASE)[i],
            bench.answers(table.TUNED)[i],
            "\n".join(turn.content for turn in row.prompt),
            None if right is None or np.isnan(right[i]) else float(right[i]),
            {line.name: line.answers[i] for line in others},
            dict(row.groups),
        )
        for i, row in enumerate(rows)
    ]
