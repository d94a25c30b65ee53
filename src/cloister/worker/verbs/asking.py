"""The ways of asking that an evaluation compares, each put to a model: greedily, again, alone, in other words.

Knows models, prompts and rows; which figures come of the answers it does not know.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloister.datasets.render import prompt_ids_all
from cloister.datasets.rows import Row
from cloister.evaluation import prompts as asking
from cloister.evaluation.generate import ended, greedy, texts
from cloister.evaluation.prompts import Prompts
from cloister.evaluation.table import Measured
from cloister.evaluation.tasks import Task

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter

ALONE = 5
"""Queries that are asked alone, for the latency."""
TEMPERATURE = 0.7
ROOM = 24
"""Tokens that are left free: a question in other words is longer."""


@dataclass(frozen=True)
class Asked:
    """All rows' answers, how long a query took, asked in batches, and the share of answers that were cut off."""

    answers: list[str]
    seconds: float
    cut: float


@dataclass(frozen=True)
class Model:
    """A loaded model. An answer is cut off at `max_new_tokens`."""

    model: Any
    tokenizer: Any
    max_new_tokens: int
    batch_size: int

    @property
    def context(self) -> int:
        """The tokens that it can see at once."""
        config = self.model.config
        config = getattr(config, "text_config", None) or config
        return int(getattr(config, "max_position_embeddings", None) or 4096)

    @property
    def most_tokens(self) -> int:
        """What a prompt may take of the context."""
        return self.context - self.max_new_tokens - ROOM

    def ask(self, name: str, input_ids: Sequence[Sequence[int]], emit: Emitter, *, after: int = 0) -> Asked:
        """Greedily, in batches. `after`: so much of this stage's progress is done already."""
        started = time.perf_counter()
        answers = greedy(
            self.model,
            self.tokenizer,
            input_ids,
            self.max_new_tokens,
            self.batch_size,
            on_progress=lambda done, total: emit.progress(name, after + done, after + total),
            should_stop=emit.should_stop,
        )
        seconds = (time.perf_counter() - started) / len(input_ids)
        cut = sum(not done for done in ended(self.model, self.tokenizer, answers)) / len(answers)
        return Asked(texts(self.model, self.tokenizer, input_ids, answers), seconds, cut)

    def latencies(self, input_ids: Sequence[Sequence[int]], emit: Emitter) -> tuple[float, ...]:
        """Seconds of each query asked alone."""
        found = []
        for ids in input_ids:
            started = time.perf_counter()
            self._answers([ids], emit)
            found.append(time.perf_counter() - started)
        return tuple(found)

    def again(
        self, rows: Sequence[Row], first: Sequence[str], task: Task, repeat: int, seed: int, emit: Emitter
    ) -> tuple[float, ...]:
        """How far each row's answers are like its first: drawn ones, and to the question in other words."""
        given = prompt_ids_all(rows, self.tokenizer)
        others = [self._answers(given, emit, TEMPERATURE, seed + number) for number in range(repeat)]
        for frame in asking.FRAMES:
            others.append(self._answers(prompt_ids_all(asking.framed(rows, frame), self.tokenizer), emit))
        return tuple(
            sum(task.alike(one, other[i]) for other in others) / len(others) for i, one in enumerate(first)
        )

    def _answers(
        self,
        input_ids: Sequence[Sequence[int]],
        emit: Emitter,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        made = greedy(
            self.model,
            self.tokenizer,
            input_ids,
            self.max_new_tokens,
            self.batch_size,
            temperature=temperature,
            seed=seed,
            should_stop=emit.should_stop,
        )
        return texts(self.model, self.tokenizer, input_ids, made)


@dataclass(frozen=True)
class Asking:
    """How every line of the table is measured."""

    task: Task
    alike_rows: int
    repeat: int
    seed: int
    emit: Emitter

    def measure(
        self,
        name: str,
        model: Model,
        switch: AbstractContextManager[Any],
        prompts: Prompts,
        asked: Asked | None = None,
    ) -> Measured:
        """One line, scored later; `asked` where these prompts were answered already."""
        with switch:
            if asked is None:
                asked = model.ask(name, prompts.input_ids, self.emit)
            draw = random.Random(self.seed)  # noqa: S311 - a choice of rows, no secret
            alone = draw.sample(prompts.input_ids, min(ALONE, len(prompts.input_ids)))
            latencies = model.latencies(alone, self.emit)
            again = sorted(draw.sample(range(len(prompts.rows)), min(self.alike_rows, len(prompts.rows))))
            alike: tuple[float, ...] = ()
            if again:
                self.emit.progress(f"{name}, asked again", 0, 1)
                alike = model.again(
                    [prompts.rows[i] for i in again],
                    [asked.answers[i] for i in again],
                    self.task,
                    self.repeat,
                    self.seed,
                    self.emit,
                )
        return Measured(
            name,
            tuple(asked.answers),
            self.task.score(asked.answers),
            alike,
            prompts.examples,
            prompts.instructed,
            prompts.tokens,
            asked.seconds,
            latencies,
            longest=model.max_new_tokens,
            cut=asked.cut,
        )
