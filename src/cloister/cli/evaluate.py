"""`cloister evaluate`: was it worth it? The table and its verdict, the worst answers, a page to hand on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cloister.cli.output import JsonFlag, print_json, print_table, say, tell, visible, warn_of
from cloister.cli.receiving import received, require_new, write_new
from cloister.cli.session import connect, watch
from cloister.errors import Denied, InvalidInput, NotFound

if TYPE_CHECKING:
    import ast

    from cloister.api import Run
    from cloister.client import Client

MAX_FILE = 1 << 20
MEASURE = "measure"


class _WithDefault(TyperGroup):
    """`evaluate RUN` is `evaluate measure RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help", "-h"}:
            args = [MEASURE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_WithDefault, no_args_is_help=True)
Reference = Annotated[str, typer.Argument(metavar="RUN", help="The run's name or id.")]
Names = Annotated[
    bool,
    typer.Option("--labels", help="With the names of labels and groups, which are content: it is entered."),
]


@app.command(MEASURE)
def measure(
    reference: Reference,
    rows: Annotated[
        int, typer.Option(min=0, help="So many hold-out rows, the same for every line; 0: all.")
    ] = 0,
    few_shot: Annotated[
        int, typer.Option(min=0, max=256, help="Training rows before each question; 0: no such line.")
    ] = 8,
    retrieve: Annotated[
        int,
        typer.Option(min=0, max=256, help="The nearest training rows before a question; 0: no such line."),
    ] = 8,
    larger: Annotated[
        str | None, typer.Option(help="Another base model, untuned, to set against it.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="A metric of your own: (prediction, expected, row) to a number, the larger the better.",
        ),
    ] = None,
    glossary: Annotated[
        Path | None, typer.Option(help="House terms, a line each; `avoided -> term` for what not to say.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=0, max=100, help="Ask some questions again so often.")] = 2,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            help="Longest answer of the tuned model; else 16 tokens over the longest expected.",
        ),
    ] = None,
    untuned_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            help="Longest answer of the others; else four times the longest expected, or 128 more. Time grows with it.",
        ),
    ] = None,
    general: Annotated[
        bool, typer.Option(help="Ask the shipped general questions, before and after.")
    ] = True,
    json: JsonFlag = False,
) -> None:
    """Measure a run's tuned model beside prompting, retrieval and a larger base, and say whether it was worth it.

    Ctrl-C leaves it running: `cloister run watch RUN`.
    """
    from cloister.api import EvaluateConfig, EvaluationRequest, TableConfig
    from cloister.cli.validation import validated

    with contextlib.ExitStack() as stack:
        descriptors: dict[str, int] = {}
        wanted: dict[str, Any] = {}
        if metric is not None:
            path, _, function = metric.rpartition(":")
            if not path:
                raise InvalidInput("name the file and its function", where=metric, remedy="FILE.py:FUNCTION")
            wanted["metric"] = function
            descriptors["metric"], wanted["metric_sha256"] = stack.enter_context(_opened(Path(path)))
            _require_function(Path(path), function)
        if glossary is not None:
            descriptors["glossary"], wanted["glossary_sha256"] = stack.enter_context(_opened(glossary))
        table = validated(
            TableConfig,
            few_shot=few_shot,
            retrieve=retrieve,
            repeat=repeat,
            untuned_tokens=untuned_tokens,
            general=general,
            **wanted,
        )
        config = validated(EvaluateConfig, max_rows=rows, max_new_tokens=max_new_tokens, table=table)
        client = stack.enter_context(connect())
        request = validated(EvaluationRequest, config=config, larger=larger)
        job = client.evaluate_run(reference, request, descriptors)
        watch(client, job.job_id, quiet=json)
        run = client.run(reference)
    print_json(run.evaluation) if json else print_evaluation(run)


def _require_function(path: Path, name: str) -> None:
    """See, without running it, that a file is Python and has that function: the sandbox would say so after a wait.

    Errors: InvalidInput.
    """
    import ast

    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise InvalidInput("is not Python", where=f"{path}{line}") from None
    functions = [one.name for one in tree.body if isinstance(one, ast.FunctionDef)]
    # What else may give a name: bound, imported, or defined under a condition.
    other = [one for one in tree.body if not isinstance(one, ast.FunctionDef | ast.ClassDef | ast.Expr)]
    if name not in functions and not any(_names_it(one, name) for one in other):
        told = f"It has {', '.join(functions[:5])}." if functions else "It has no function."
        raise InvalidInput(f"has no function {visible(name)}", where=str(path), remedy=visible(told))


def _names_it(tree: ast.AST, name: str) -> bool:
    import ast

    return any(
        name in (getattr(one, "id", None), getattr(one, "name", None), getattr(one, "asname", None))
        or (isinstance(one, ast.alias) and one.name == "*")
        for one in ast.walk(tree)
    )


@app.command()
def show(reference: Reference, labels: Names = False, json: JsonFlag = False) -> None:
    """Print the table and the verdict again."""
    with connect() as client:
        run = client.run(reference)
        _full(run)
        names = _names(client, reference) if labels else {}
    print_json({**(run.evaluation or {}), **names}) if json else print_evaluation(run, names)


@app.command()
def errors(
    reference: Reference,
    worst: Annotated[int, typer.Option(min=1, max=1000, help="So many, the worst first.")] = 10,
    to: Annotated[
        Path | None, typer.Option(help="A new file for them as JSON, 0600; else they are printed.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Read the answers that the tuned model got most wrong, with question and expected answer.

    They are content: that you asked is entered first, with your account, and they come to this command alone.
    """
    if to is not None:
        require_new(to)
    with connect() as client:
        document, entry = _revealed(client, reference, worst)
    found = _parsed(document)["worst"]
    if to is not None:
        write_new(to, document)
        say(f"{len(found)} answers are in {visible(str(to))}. Reading them is entry {entry} of the ledger.")
        return
    if json:
        print_json({"worst": found, "entry": entry})
        return
    for one in found:
        print(
            visible(f"row {one['row']}" + (f", {one['right']:.2f}" if one.get("right") is not None else ""))
        )
        for name in ("question", "expected", "tuned", "base"):
            print(f"  {name}: " + visible(str(one.get(name, "")), lines=True).replace("\n", "\n    "))
    say(f"Reading them is entry {entry} of the ledger.")


@app.command()
def export(
    reference: Reference,
    html: Annotated[Path | None, typer.Option(help="A new file for the page.")] = None,
    numbers: Annotated[
        Path | None, typer.Option("--numbers", help="A new file for the numbers, as JSON.")
    ] = None,
    labels: Names = False,
    json: JsonFlag = False,
) -> None:
    """Write the evaluation as a page without scripts and without anything to fetch, or as JSON.

    No question and no answer is in it, and without --labels no name of a label or a group either.
    """
    import json as writer

    from cloister.evaluation.page import page

    if html is None and numbers is None:
        raise InvalidInput("say where to write it", remedy="Use `--html FILE` or `--numbers FILE`.")
    if html == numbers:
        raise InvalidInput("the page and the numbers are two files", where=str(html), remedy="Name another.")
    for path in (html, numbers):
        if path is not None:
            require_new(path)
    with connect() as client:
        run = client.run(reference)
        table, verdict, full = _full(run)
        names = _names(client, reference) if labels else {}
    facts = {"run": run.name, "id": run.run_id, "dataset": run.dataset, "base": run.base}
    written = []
    if html is not None:
        text = page(table, verdict, facts=facts, notes=full.get("notes", ()), names=names)
        write_new(html, text.encode())
        written.append(str(html))
    if numbers is not None:
        write_new(numbers, writer.dumps({**facts, **full, **names}, indent=1).encode())
        written.append(str(numbers))
    print_json({"files": written}) if json else say(f"Written: {visible(', '.join(written))}.")


def print_evaluation(run: Run, names: Mapping[str, Any] | None = None) -> None:
    """The whole table in words; the verdict comes last. With `names`, those of its groups, and a table by label."""
    from cloister.evaluation import columns
    from cloister.evaluation.verdict import HEADLINES

    table, verdict, full = _full(run)
    warn_of(run)
    say(f"On {table.rows} held-out rows, the same for every line; 95% intervals.")
    told = names or {}
    tables = [
        columns.figures(table),
        columns.effort(table),
        *columns.groups(table, told.get("groups", ())),
        *([columns.labels(table, told["labels"])] if told.get("labels") else []),
        columns.general(table),
    ]
    for heading, cells in tables:
        if cells:
            print_table(heading, cells, empty="")
            print()
    for note in full.get("notes", ()):
        tell(f"note: {note}")
    tell(f"note: times, and what is reckoned from them, are of {table.timed_with}, not of vLLM")
    tell(HEADLINES[verdict.advice])
    for sentence in verdict.sentences:
        tell(sentence)


def _full(run: Run) -> tuple[Any, Any, dict[str, Any]]:
    """Table, verdict and everything. Errors: NotFound."""
    import msgspec

    from cloister.evaluation import table
    from cloister.evaluation.verdict import Verdict

    full = (run.evaluation or {}).get("full")
    if full is None:
        raise NotFound(
            "the whole table was not measured yet", where=run.name, remedy=f"`cloister evaluate {run.name}`"
        )
    return table.of(full["table"]), msgspec.convert(full["verdict"], Verdict), full


def _names(client: Client, reference: str) -> dict[str, Any]:
    """The names of labels and groups, out of the sealed report: that they are read is entered."""
    document, _ = _revealed(client, reference, 1)
    return {key: value for key, value in _parsed(document).items() if key != "worst"}


def _revealed(client: Client, reference: str, worst: int) -> tuple[bytes, int]:
    """The sealed report's content, and the entry that says that it was read."""
    from cloister.api import ErrorsConfig

    request = ErrorsConfig(worst=worst)
    document, job = received(lambda output: client.evaluation_errors(reference, request, output))
    return document, int(job.result.get("entry", 0))


def _parsed(document: bytes) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.json.decode(document)
    return found


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[int, str]]:
    """A file's descriptor at its start, and the SHA-256 of what is in it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound("no such file", where=str(path)) from None
    except OSError:
        raise Denied("the system refuses access", where=str(path)) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInput(
                "is no file",
                where=str(path),
                remedy="Name a file: it is read here, and in the sandbox again.",
            )
        data = b""
        while len(data) <= MAX_FILE and (piece := os.read(descriptor, MAX_FILE + 1)):
            data += piece
        if len(data) > MAX_FILE:
            raise InvalidInput(f"has more than {MAX_FILE} bytes", where=str(path))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor, hashlib.sha256(data).hexdigest()
    finally:
        os.close(descriptor)
