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

from cloister.api import EvaluateConfig, JobDocument, TableConfig
from cloister.datasets.rows import Row
from cloister.errors import InvalidInput, JobFailed
from cloister.evaluation import general, own, prompts, table
from cloister.evaluation.generate import greedy, texts
from cloister.evaluation.loss import mean_loss, row_losses
from cloister.evaluation.metrics import Glossary
from cloister.evaluation.report import compare, encode_samples, score
from cloister.evaluation.table import Measured
from cloister.evaluation.tasks import Scored, Task, instruction_of, task_of, with_labels
from cloister.evaluation.verdict import verdict
from cloister.models.load import load_base
from cloister.sandbox.confine import Confined
from cloister.training.rows import RowSource, TokenRows
from cloister.worker.verbs import answered, measuring, opening
from cloister.worker.verbs.asking import Asked, Asking, Model

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter

POOL = 20_000
"""So many training rows, a seeded choice where there are more, are where examples come from."""
MAX_FILE = 1 << 20
SPARE_TOKENS = 16
"""An answer of the tuned model that is longer than any expected one by more than that is cut off: it is wrong."""
SPARE_UNTUNED = 128
MOST_UNTUNED = 1024
"""A model that was not tuned may use other words, and think aloud: it has so many more, or four times the longest
expected answer, but of a small context no more than a quarter, and `MOST_UNTUNED` at most."""


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
        glossary = Glossary(files["glossary"].decode()) if "glossary" in files else None
        task = task_of(rows, holdout.name, glossary)
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
        if task.calls:
            task = task_of(rows, holdout.name, glossary, prompts.expected(rows, tuned.tokenizer))

        bench = _Bench(rows, task, tuned.tokens(holdout), tuned, config, emit)
        wrong = given.adapter.manifest.details.get("went_wrong")
        if wrong is not None:
            bench.notes.append(f"Of a run that went wrong: {wrong}")
            emit.notice("warning", bench.notes[-1])
        bench.measure_pair()
        values = compare(bench.scores("base"), bench.scores("tuned"), len(rows))
        lines, primary = bench.lines, task.primary
        secret: dict[str, Any] = {}
        if config.table is not None:
            template = measuring.template_of(given.adapter)
            if template not in ("auto", "model") and task.kind != "text":
                bench.notes.append(
                    f"Both models were asked in the run's template ({template}): the base may know its own better."
                )
            pool = _pool(given, config.seed) if task.kind != "text" else []
            bench.measure_prompting(pool, config.table)
            compared = bench.general_check() if config.table.general else None
            training_s = _device_seconds(given.adapter)
            if larger is not None:
                method = given.adapter.manifest.details["method"]
                del tuned
                bench.forget_tuned()
                bench.measure_larger(*load_base(larger, method=method, device=job.device), pool, config.table)
            lines = bench.lines
            if metric is not None:
                named = config.table.metric or ""
                lines = [_with_own(one, metric, named, task.expected, rows, files["metric"]) for one in lines]
                tuned_line = next(line for line in lines if line.name == table.TUNED)
                others = [line.scored.columns for line in lines if line is not tuned_line]
                deciding = own.deciding(tuned_line.scored.columns, others)
                primary = deciding or primary
                if deciding is None:
                    bench.notes.append(
                        "The metric gave no number by which the tuned model can be set against another line: the usual "
                        "figure decides."
                    )
            columns, positions = answered.groups(rows)
            if len(columns) < len({name for row in rows for name in row.groups}):
                bench.notes.append(f"A column with more than {answered.MOST_GROUPS} groups was left out.")
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
            secret = {"groups": columns, "labels": answered.by_label(bench.task, lines)}
        with writer.create("report.json") as file:
            file.write(msgspec.json.encode({"config": job.config, **values, **secret}))
        with writer.create("samples.bin") as file:
            pair = (bench.answers(table.BASE), bench.answers(table.TUNED))
            file.write(encode_samples(answered.samples(holdout, rows, bench.task, pair, lines, primary)))
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
        longest = self._longest(tuned.tokenizer) if task.kind != "text" else 0
        asked, enough = config.max_new_tokens, longest + SPARE_TOKENS
        tabled = config.table is not None and task.kind != "text"
        most = min(asked or enough, enough) if tabled else asked or enough
        self._tuned = Model(tuned.model, tuned.tokenizer, most, config.batch_size)
        self._untuned = self._patient(self._tuned) if tabled else self._tuned
        if longest > most:
            told = f"Answers are cut off at {most} tokens, and the longest expected one has {longest}."
            self.notes.append(told)
            emit.notice("warning", told)
        self._plain = prompts.plain(rows, tuned.tokenizer) if task.kind != "text" else None

    def _longest(self, tokenizer: Any) -> int:
        """Tokens of the longest expected answer."""
        encoded = tokenizer(list(self.task.expected), add_special_tokens=False)["input_ids"]
        return max(map(len, encoded))

    def _patient(self, model: Model) -> Model:
        """The same model with room for answers of one that was not tuned."""
        assert self.config.table is not None
        longest, asked = self._longest(model.tokenizer), self.config.table.untuned_tokens
        wanted = asked or min(MOST_UNTUNED, max(4 * longest, longest + SPARE_UNTUNED))
        most = max(longest + SPARE_TOKENS, model.context // (2 if asked else 4))
        if wanted > most:
            self.notes.append(
                f"Of a context of {model.context} tokens untuned answers have {most}, and not {wanted}."
            )
        return replace(model, max_new_tokens=min(wanted, most))

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
        read = self.task.read
        return score(
            self._losses[name],
            [read(one) for one in answers],
            [read(one) for one in self.task.expected],
            labels,
        )

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
            on_batch=lambda done: self.emit.progress(name, done, len(tokens)),
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
        self._prompted(asking, self._untuned, self._peft.disable_adapter, pool, config, "")
        self.lines.append(
            asking.measure(table.TUNED, self._tuned, nullcontext(), self._plain, self._pair[table.TUNED])
        )

    def measure_larger(self, model: Any, tokenizer: Any, pool: Sequence[Row], config: TableConfig) -> None:
        """Another base, untuned, asked well."""
        if self._plain is None:
            self.notes.append("A larger base is not set against plain text: its tokens are others.")
            return
        larger = self._patient(Model(model, tokenizer, 1, self.config.batch_size))
        self._prompted(self._asking(config), larger, nullcontext, pool, config, table.LARGER)

    def forget_tuned(self) -> None:
        """Let go of the tuned model's memory."""
        self._peft = None
        self._tuned, self._untuned = replace(self._tuned, model=None), replace(self._untuned, model=None)
        measuring.let_go()

    def general_check(self) -> general.General | None:
        """The shipped questions, before and after."""
        model, tokenizer = self._tuned.model, self._tuned.tokenizer
        try:
            asked = prompts.plain(general.rows(), tokenizer)
        except InvalidInput:
            self.notes.append("The chat template takes no plain question: the general check was left out.")
            return None

        def said(prompts: Sequence[Sequence[int]], most: int) -> list[str]:
            made = greedy(
                model,
                tokenizer,
                prompts,
                most,
                self.config.batch_size,
                on_progress=lambda done, total: self.emit.progress("general check", done, total),
                should_stop=self.emit.should_stop,
            )
            return texts(model, tokenizer, prompts, made)

        answers = []
        for switch in (self._peft.disable_adapter(), nullcontext()):
            with switch:
                answers.append(general.patiently(said, asked.input_ids, self._tuned.context))
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
        as_it_stands = (
            not prefix and instruction is None and model.max_new_tokens == self._tuned.max_new_tokens
        )
        done = self._pair.get(table.BASE) if as_it_stands else None
        self.lines.append(asking.measure(prefix or table.BASE, model, switch(), bare, done))
        if config.few_shot and pool:
            shots = prompts.spelt_out(prompts.few_shot(pool, config.few_shot, seed), tokenizer)
            given = prompts.alike_for_all(self.rows, tokenizer, most, instruction=instruction, examples=shots)
            if given.examples and instruction is not None and not given.instructed:
                self.notes.append(
                    f"No example fits into the context beside the instruction: {given.examples:g} of {len(shots)} are "
                    "given without it."
                )
            elif given.examples < len(shots):
                self.notes.append(f"Of {len(shots)} examples {given.examples:g} fit into the context.")
            if given.examples:
                name = table.LARGER_FEW_SHOT if prefix else table.FEW_SHOT
                self.lines.append(asking.measure(name, model, switch(), given))
        if config.retrieve and pool and not prefix:
            near = prompts.Retriever(pool).nearest(self.rows, config.retrieve)
            if self.task.calls:
                near = [prompts.spelt_out(some, tokenizer) for some in near]
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


def _device_seconds(adapter: Any) -> float | None:
    """How long the training took, counted once for each device that it had."""
    history = msgspec.json.decode(adapter.read("history.json"))
    found = history.get("seconds")
    return float(found) * int(history.get("devices", 1)) if isinstance(found, int | float) else None


def _with_own(
    line: Measured, metric: Confined, name: str, expected: Sequence[str], rows: Sequence[Row], source: bytes
) -> Measured:
    columns = own.columns(metric, name, line.answers, expected, rows, source)
    return replace(line, scored=Scored({**columns, **line.scored.columns}, line.scored.said))
