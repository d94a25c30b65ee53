"""Run files: written by five questions or from another tool's recipe, and read into the request for a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cloister.cli.output import JsonFlag, print_json, print_table, say, visible

if TYPE_CHECKING:
    from cloister.api import Run, RunRequest
    from cloister.recipes import RunFile

Aim = Literal["quality", "speed", "memory"]
Measuring = Literal["pair", "full", "none"]
Setting = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="KEY=VALUE", help="A training setting, such as lora.rank=8; several."
    ),
]
_AIMS = {
    "quality": "as good as the rows allow",
    "speed": "an answer soon: fewer passes, a smaller adapter",
    "memory": "a model that hardly fits: one row at a time",
}


def run_request(
    sources: tuple[Path | None, Path | None, str | None],
    *,
    train: Mapping[str, Any],
    lora: Mapping[str, Any],
    named: Mapping[str, Any],
    evaluate: Measuring | None,
    max_new_tokens: int | None,
    earlier: Callable[[str], Run] | None = None,
) -> RunRequest:
    """The request for a run: what one of `sources` says (run file, settings file, preset), and options over it.

    One that goes on from another run, which `earlier` looks up, has that one's base model, kept as it was then, its
    template and its adapter's form, where neither a file nor an option says otherwise; a preset's is for a new one.

    Raises:
        InvalidInput: more than one source; a part that none of them names; a setting that does not fit.
    """
    from cloister.api import RunRequest
    from cloister.cli.validation import validated
    from cloister.errors import InvalidInput

    file = _source(*sources)
    parts = {**file.model_dump(exclude={"train", "evaluate"}, exclude_none=True), **given(named)}
    adapter = given(lora)
    if earlier is not None and "from_run" in parts:
        before = earlier(parts["from_run"])
        parts.setdefault("base", before.base)
        said = {} if sources[2] is not None else file.train.get("lora") or {}
        adapter = {**before.train.lora.model_dump(), **said, **(train.get("lora") or {}), **adapter}
        usual = {"method": before.train.method, "template": before.train.template}
        train = {**{key: value for key, value in usual.items() if key not in file.train}, **given(train)}
    missing = [part for part in ("name", "dataset", "base") if part not in parts]
    if missing:
        raise InvalidInput(
            f"what is the run's {' and '.join(filter(None, (', '.join(missing[:-1]), missing[-1])))}?",
            remedy=f"Give {', '.join(f'--{part}' for part in missing)}, or a run file: `cloister run init`.",
        )
    over = given(train)
    over["lora"] = {**over.get("lora", {}), **adapter}
    return validated(
        RunRequest,
        **parts,
        train=file.train_config(**over),
        evaluate=_measure(file, evaluate, max_new_tokens),
    )


def run_named(reference: str) -> Run:
    """The run of that name or id, from the authority. Errors: NotFound."""
    from cloister.cli.session import connect

    with connect() as client:
        return client.run(reference)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that somebody gave."""
    return {key: value for key, value in options.items() if value is not None}


def settings_given(items: list[str]) -> dict[str, Any]:
    """`key=value` and `lora.key=value` as settings; values as YAML reads them. Errors: InvalidInput."""
    import yaml

    from cloister.errors import InvalidInput

    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise InvalidInput("a setting is given as KEY=VALUE", where="--set")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError, ValueError):
            raise InvalidInput("its value cannot be read", where=f"--set {visible(key)}") from None
        if key == "lora" and not isinstance(value, dict):
            raise InvalidInput(
                "its settings are given one by one", where="--set lora", remedy="Such as `--set lora.rank=8`."
            )
        if key.startswith("lora."):
            values.setdefault("lora", {})[key.removeprefix("lora.")] = value
        else:
            values[key] = value
    return values


def _source(path: Path | None, config: Path | None, preset: str | None) -> RunFile:
    from cloister.errors import InvalidInput
    from cloister.recipes import RunFile, parse_run_file, preset_text, read_run_file

    if sum(source is not None for source in (path, config, preset)) > 1:
        raise InvalidInput("only one of a run file, --config and --preset can be taken")
    if preset is not None:
        return parse_run_file(preset_text(preset).encode(), preset)
    chosen = path or config
    return RunFile() if chosen is None else read_run_file(chosen)


def _measure(file: RunFile, evaluate: Measuring | None, max_new_tokens: int | None) -> Any:
    """What is measured when it is trained: as asked for, else as the file says."""
    from cloister.api import EvaluateConfig, TableConfig
    from cloister.cli.validation import validated

    measure = file.evaluate
    if evaluate == "none" or (measure is None and evaluate is None):
        return None
    values = (measure or EvaluateConfig()).model_dump()
    if evaluate is not None:
        values["table"] = TableConfig().model_dump() if evaluate == "full" else None
    if max_new_tokens is not None:
        values["max_new_tokens"] = max_new_tokens
    return validated(EvaluateConfig, **values)


def presets(
    name: Annotated[str | None, typer.Argument(help="Print this one, with its comments.")] = None,
    json: JsonFlag = False,
) -> None:
    """List the settings that ship, or print one with its trade-offs."""
    from cloister.recipes import PRESETS, preset_text

    if name is not None:
        text = preset_text(name)
        print_json({"name": name, "text": text}) if json else print(text, end="")
    elif json:
        print_json([{"name": key, "for": what} for key, what in PRESETS.items()])
    else:
        print_table(("preset", "to"), list(PRESETS.items()), empty="")


def init(
    file: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("run.yaml"),
    preset: Annotated[str | None, typer.Option("--preset", "-p", help="What the model is to learn.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", help="The dataset to learn from.")] = None,
    base: Annotated[str | None, typer.Option("--base", "-b", help="The base model.")] = None,
    aim: Annotated[Aim | None, typer.Option("--for", help="What matters most.")] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="What to call the run.")] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Translate a recipe for Axolotl instead of asking.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a commented run file: five questions, or a recipe for Axolotl translated. Nothing is started.

    What an option answers is not asked.
    """
    from cloister.recipes import run_file_text

    missing = ""
    if from_ is not None:
        named = {"name": name, "dataset": dataset, "base": base}
        text = _translated(from_, named)
        missing = "".join(f" --{part} {part.upper()}" for part, value in named.items() if value is None)
    else:
        known = _known()
        chosen = preset or _choose("What is the model to learn?", _preset_list(), "instruction")
        dataset = dataset or _name("Which dataset?", known.get("datasets", []))
        base = base or _name("Which base model?", known.get("bases", []))
        aim = aim or _choose("What matters most?", _AIMS, "quality")  # type: ignore[assignment]
        assert aim is not None
        name = name or _name("What is the run to be called?", [], default=f"{dataset}-1")
        text = run_file_text(chosen, aim, name=name, dataset=dataset, base=base)
    write_file(file, text.encode(), force=force)
    shown = visible(str(file))
    say(f"{shown} is written. Look it over, then: `cloister run start {shown}{missing} --watch`.")


def _preset_list() -> Mapping[str, str]:
    from cloister.recipes import PRESETS

    return PRESETS


def _translated(recipe: Path, named: Mapping[str, str | None]) -> str:
    from cloister.errors import InvalidInput
    from cloister.recipes.axolotl import translate
    from cloister.recipes.run_file import MAX_BYTES

    try:
        with recipe.open("rb") as source:
            data = source.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"cannot be read: {error.strerror}", where=str(recipe)) from None
    found = translate(data, str(recipe))
    text = found.text(**{key: value for key, value in named.items() if value is not None})
    for key, why in found.left:
        say(f"not carried over: {visible(key)}: {why}")
    if found.dropped:
        say(f"without meaning here: {visible(', '.join(found.dropped))}")
    for step in found.next_steps:
        say(step)
    return text


def _known() -> dict[str, list[str]]:
    """Names of datasets and bases, where the authority runs and tells them to whoever asks."""
    from cloister import embedded
    from cloister.cli.session import connect
    from cloister.errors import CloisterError
    from cloister.home import Home

    try:
        if embedded.listener_pid(Home.default().authority_socket) is None:
            return {}
        with connect() as client:
            return {
                "datasets": [found.name for found in client.datasets()],
                "bases": [found.name for found in client.bases()],
            }
    except CloisterError:
        return {}


def _ask(question: str, default: str | None) -> str:
    from cloister.errors import InvalidInput

    if not sys.stdin.isatty():
        raise InvalidInput(
            "there is nobody to ask", remedy="Give --preset, --dataset, --base, --for and --name."
        )
    answer: str = typer.prompt(question, default=default, err=True)
    return answer.strip()


def _choose(question: str, options: Mapping[str, str], default: str) -> str:
    if sys.stdin.isatty():
        say(question)
        for number, (key, what) in enumerate(options.items(), 1):
            say(f"  {number}  {key:<15}{what}")
    while True:
        answer = _ask("Number or name", default)
        if answer.isascii() and answer.isdigit() and 0 < int(answer) <= len(options):
            return list(options)[int(answer) - 1]
        if answer in options:
            return answer
        say(f"One of {', '.join(options)}, or its number.")


def _name(question: str, known: list[str], *, default: str | None = None) -> str:
    shown = (
        f"{question} ({visible(', '.join(known[:8]))}{', …' if len(known) > 8 else ''})"
        if known
        else question
    )
    while True:
        answer = _ask(shown, default or (known[-1] if known else None))
        if answer and (not known or answer in known):
            return answer
        say("There is none of that name." if known else "A name is needed.")


def write_file(path: Path, data: bytes, *, force: bool) -> None:
    """A new file, or with `force` one written over; never through a link.

    Errors: Conflict, InvalidInput, OutOfSpace.
    """
    import os

    from cloister.cli.receiving import fill_new
    from cloister.errors import Conflict, InvalidInput

    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if not force:
            fill_new(os.open(path, flags | os.O_EXCL, 0o644), path, data)
            return
        with os.fdopen(os.open(path, flags | os.O_TRUNC, 0o644), "wb") as file:
            file.write(data)
    except FileExistsError:
        raise Conflict(
            "is there already", where=str(path), remedy="Name another file, or use --force."
        ) from None
    except OSError as error:
        raise InvalidInput(f"cannot be written: {error.strerror}", where=str(path)) from None
