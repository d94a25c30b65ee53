"""The demo: an insurer's claims desk, from a raw file to an audited answer, in a home of its own.

Every step goes through the same client, sockets and sandboxes as real work. It tells each stage as it
happens, ends with a table, and cleans up after itself, also when interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from cloister.api import (
    BaseImport,
    BaseImportConfig,
    ClientRequest,
    DatasetImport,
    EvaluateConfig,
    EvaluationRequest,
    ImportConfig,
    Job,
    LoraConfig,
    MergeConfig,
    MergeRequest,
    RunRequest,
    ServeConfig,
    ServeRequest,
    TableConfig,
    TrainConfig,
)
from cloister.client import Client
from cloister.demo.claims import generate
from cloister.demo.search import Leak, find_leaks
from cloister.errors import CloisterError, Interrupted, JobFailed
from cloister.evaluation import columns, table
from cloister.home import Home
from cloister.sources import open_base_folder

BASE_FOLDER = Path(__file__).parent / "base"
MAX_NEW_TOKENS = 96
KEPT_PASSPHRASE = "claims desk demo"  # noqa: S105 - said aloud, of made-up data
"""Of a home that is kept, so that it can be opened. Its rows are made up, and it says so."""
SETTINGS = """\
# The demo's home: a banner of its own, and a port that nothing else takes.
console: {name: claims desk demo, colour: green}
gateway: {listen: '127.0.0.1:0'}
"""
TRAIN = TrainConfig(
    lora=LoraConfig(rank=32, alpha=64.0),
    epochs=5,
    learning_rate=3e-3,
    batch_size=16,
    micro_batch_size=16,
    max_length=320,
)
WORTH = EvaluateConfig(
    max_rows=48,
    max_new_tokens=MAX_NEW_TOKENS,
    table=TableConfig(few_shot=3, retrieve=3, repeat=0, alike_rows=0),
)
"""The whole table, on few rows: the demo is to stay short."""


def tell(*, keep: bool, rows: int, as_json: bool) -> int:
    """Run the demo. Returns the exit status: 0 where everything held, 130 where it was interrupted."""
    started = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="cloister-demo-"))
    stage = Stages(quiet=as_json)
    report: dict[str, Any] = {"ok": False}
    with _stopped_by_signals():
        try:
            report = _walk(root, rows, stage, keep=keep)
        except (KeyboardInterrupt, Interrupted):
            stage.say("interrupted; cleaning up")
            report["error"] = "interrupted"
        except CloisterError as error:
            stage.say(f"failed: {error}")
            report["error"] = str(error)
        finally:
            _clean_up(root, keep=keep, stage=stage)
    report["seconds"] = {**stage.seconds, "total": round(time.monotonic() - started, 1)}
    if as_json:
        print(json.dumps(report), flush=True)
    elif report["ok"]:
        _say_what_next(root if keep else None)
    if report.get("error") == "interrupted":
        return 130
    return 0 if report["ok"] else 1


class Stages:
    """Tells what happens, and how long each stage took in seconds."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        print(text, file=sys.stderr if self._quiet else sys.stdout, flush=True)

    @contextlib.contextmanager
    def stage(self, name: str, text: str) -> Iterator[None]:
        self.say(f"· {text}")
        begin = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begin, 1)
        self.say(f"  done in {self.seconds[name]:.1f} s")


def _walk(root: Path, rows: int, stage: Stages, *, keep: bool) -> dict[str, Any]:
    from cloister import embedded

    home = Home(root / "home")
    canary = f"canary-{secrets.token_hex(12)}"
    stage.say(f"Cloister demo: an insurer's claims desk, in {root}")
    with stage.stage("start", "starting launcher, authority and gateway; making the vault"):
        os.environ["CLOISTER_HOME"] = str(home.root)
        home.make()
        home.settings_file.write_text(SETTINGS)
        embedded.start(home)
        client = Client(home.authority_socket)
        client.initialise(KEPT_PASSPHRASE if keep else secrets.token_urlsafe(24))
    with client:
        with stage.stage("import", f"sealing {rows} made-up customer messages, some with a canary string"):
            dataset = _import_rows(client, rows, canary)
            counts = client.dataset("claims").counts
            stage.say(
                f"  {counts['train_rows']} rows to train on, {counts['holdout_rows']} held out; {dataset.subject}"
            )
        with stage.stage("base", "importing the base model: safetensors only, every file hashed"):
            _import_base(client)
        with stage.stage("train", "fine-tuning with QLoRA in a sandbox without a network"):
            run = client.start_run(
                RunRequest(
                    name="claims",
                    dataset="claims",
                    base="small",
                    train=TRAIN,
                    evaluate=EvaluateConfig(max_new_tokens=MAX_NEW_TOKENS),
                )
            )
            _follow(client, run.train_job.job_id, stage)
        with stage.stage("evaluate", "measuring base against tuned on the hold-out"):
            evaluate_job = client.run("claims").evaluate_job
            assert evaluate_job is not None
            evaluation = client.finished_job(evaluate_job.job_id).result
        with stage.stage("worth", f"asking whether it was worth it, on {weighed(counts)} of those messages"):
            asked = client.evaluate_run("claims", EvaluationRequest(config=WORTH), {})
            worth = client.finished_job(asked.job_id).result["full"]
        with stage.stage("merge", "merging into 16 bits, measured against the adapter"):
            request = MergeRequest(
                name="claims", run="claims", config=MergeConfig(max_new_tokens=MAX_NEW_TOKENS)
            )
            merged = client.finished_job(client.merge(request).job_id).result
        with stage.stage("serve", "serving the merged model through vLLM in a sandbox"):
            serve = ServeConfig(max_model_len=512, max_num_seqs=16)
            deployment = client.serve(ServeRequest(name="claims", model="claims", config=serve))
            client.ready_deployment(deployment.deployment_id)
            api_key = client.issue_client(ClientRequest(name="claims-desk")).api_key
            url = client.status().gateway_url
        held_out = _held_out_rows(rows, canary)
        with stage.stage(
            "ask", f"asking it {len(held_out)} held-out messages through the gateway, with an API key"
        ):
            served = _ask(str(url), api_key, held_out)
        with stage.stage(
            "stop", f"{'' if keep else 'revoking the key, '}stopping the engine, locking the vault"
        ):
            if not keep:
                client.revoke_client("claims-desk")
            client.stop_deployment("claims")
            client.flush_ledger()
    with stage.stage("verify", "verifying both ledgers offline, and searching every byte for the canary"):
        embedded.stop(home)
        ledger = _verify(home)
        leaks = find_leaks(canary, [root, *_places_to_search()])
        for leak in leaks:
            stage.say(f"  LEAK: {leak.path} at byte {leak.offset}")
    return _report(rows, evaluation, worth, merged, served, leaks, ledger, stage)


def _import_rows(client: Client, rows: int, canary: str) -> Job:
    """Hand the rows over through a pipe: not even the demo's source file lies on a disk."""
    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb") as pipe, contextlib.suppress(BrokenPipeError):
            for row in generate(rows, seed=0, canary=canary):
                pipe.write(json.dumps(row).encode() + b"\n")

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    request = DatasetImport(name="claims", config=_IMPORT)
    try:
        job = client.import_dataset(request, {"source": reading})
    finally:
        os.close(reading)
    return client.finished_job(job.job_id)


_IMPORT = ImportConfig(source_name="claims.jsonl", format="jsonl", holdout=0.1, seed=0)


def _import_base(client: Client) -> Job:
    files = open_base_folder(BASE_FOLDER)
    try:
        request = BaseImport(name="small", config=BaseImportConfig(files=tuple(files)))
        job = client.import_base(request, {f"file:{i}": fd for i, fd in enumerate(files.values())})
        return client.finished_job(job.job_id)
    finally:
        for descriptor in files.values():
            os.close(descriptor)


def weighed(counts: Mapping[str, int]) -> int:
    """How many held-out rows the table is made of."""
    return min(WORTH.max_rows, counts["holdout_rows"])


def _follow(client: Client, job_id: str, stage: Stages) -> None:
    """Tell a run's hold-out loss each time that it is measured, and its estimate."""
    told = None
    for job in client.watch_job(job_id):
        loss = job.metrics.get("holdout_loss")
        progress = job.progress
        if loss is None or progress is None or job.state != "running":
            continue
        if loss != told:
            told = loss
            left = "" if not progress.remaining_s else f", about {progress.remaining_s:.0f} s left"
            stage.say(f"  step {int(job.metrics.get('step', 0))}: hold-out loss {loss:.4f}{left}")
    client.finished_job(job_id)


def _held_out_rows(rows: int, canary: str) -> list[tuple[list[dict[str, str]], str]]:
    """The messages and the right answer of every held-out row, by the split that the import used."""
    import msgspec

    from cloister.datasets import Row
    from cloister.datasets.split import HOLDOUT, Splitter

    generated = list(generate(rows, seed=0, canary=canary))
    splitter = Splitter(_IMPORT.holdout, _IMPORT.seed)
    sides = splitter.add([msgspec.convert(row, Row) for row in generated]) + splitter.finish()
    return [
        (row["messages"][:-1], row["messages"][-1]["content"])
        for row, side in zip(generated, sides, strict=True)
        if side == HOLDOUT
    ]


def _ask(url: str, api_key: str, rows: list[tuple[list[dict[str, str]], str]]) -> dict[str, Any]:
    """Ask the gateway every message, eight at a time. Returns the share of exact answers."""
    with httpx.Client(
        base_url=url, headers={"authorization": f"Bearer {api_key}"}, timeout=120, trust_env=False
    ) as http:
        _wait_until_served(http)

        def ask(row: tuple[list[dict[str, str]], str]) -> bool:
            messages, expected = row
            body = {
                "model": "claims",
                "messages": messages,
                "temperature": 0,
                "max_tokens": MAX_NEW_TOKENS,
            }
            response = http.post("/v1/chat/completions", json=body)
            if response.status_code != 200:
                raise JobFailed(f"the gateway answered {response.status_code}", where=url)
            return bool(response.json()["choices"][0]["message"]["content"].strip() == expected.strip())

        with ThreadPoolExecutor(8) as pool:
            right = list(pool.map(ask, rows))
    return {"rows": len(right), "exact_match": sum(right) / len(right)}


def _wait_until_served(http: httpx.Client) -> None:
    """The gateway learns keys and deployments from the event stream, a moment after they exist."""
    for _ in range(100):
        with contextlib.suppress(httpx.TransportError):
            response = http.get("/v1/models")
            if response.status_code == 200 and response.json().get("data"):
                return
        time.sleep(0.1)
    raise JobFailed("the gateway does not serve the model", where=str(http.base_url))


def _verify(home: Home) -> dict[str, Any]:
    from cloister.verifier import verify_log

    entries, problems = 0, list[str]()
    for folder in (home.control_ledger, home.gateway_ledger):
        report = verify_log(folder, (folder / "vkey").read_text().strip())
        entries += report.entries
        problems += report.problems
        if report.unsigned:
            problems.append(f"{report.unsigned} entries are not signed")
    return {"entries": entries, "verified": not problems}


def _places_to_search() -> list[Path]:
    """Everything else that this run could have written: temporary folders, shared memory, caches."""
    places = [Path(tempfile.gettempdir()), Path("/run/user") / str(os.getuid())]
    places += [Path("/var/tmp"), Path("/dev/shm")]  # noqa: S108 - searched, not written
    for name in (".cache", ".triton", ".config/vllm", ".local/share/cloister"):
        places.append(Path.home() / name)
    return places


def _report(
    rows: int,
    evaluation: dict[str, Any],
    worth: dict[str, Any],
    merged: dict[str, Any],
    served: dict[str, Any],
    leaks: list[Leak],
    ledger: dict[str, Any],
    stage: Stages,
) -> dict[str, Any]:
    base, tuned = evaluation["base"], evaluation["tuned"]
    accuracy = {
        "base": base["exact_match"],
        "tuned": tuned["exact_match"],
        "served": served["exact_match"],
    }
    stage.say("")
    stage.say(f"On {evaluation['rows']} held-out messages      base     tuned    served")
    stage.say(f"  loss (nats a token)     {base['loss']:9.4f} {tuned['loss']:9.4f}         -")
    stage.say(
        f"  exact answers           {accuracy['base']:9.1%} {accuracy['tuned']:9.1%} {accuracy['served']:9.1%}"
    )
    found = table.of(worth["table"])
    for text in ["", *columns.lines(columns.figures(found)), *worth["verdict"]["sentences"], ""]:
        stage.say(text)
    stage.say(
        f"Merged on the {merged['base']} base: loss {merged['loss_merged']:.4f} against the adapter's "
        f"{merged['loss_adapter']:.4f}, the same answer on {merged['greedy_agreement']:.1%} of the rows."
    )
    stage.say(
        f"Ledger: {ledger['entries']} entries, {'verified' if ledger['verified'] else 'NOT VERIFIED'}. "
        f"Canary: found in {len(leaks)} places."
    )
    gap = abs(accuracy["served"] - accuracy["tuned"])
    return {
        "ok": not leaks and ledger["verified"] and accuracy["tuned"] > accuracy["base"] and gap <= 0.0101,
        "rows": rows,
        "accuracy": accuracy,
        "verdict": worth["verdict"]["advice"],
        "merge": {key: merged[key] for key in ("base", "loss_adapter", "loss_merged", "greedy_agreement")},
        "leaks": len(leaks),
        "ledger": ledger,
    }


def _clean_up(root: Path, *, keep: bool, stage: Stages) -> None:
    from cloister import embedded

    with contextlib.suppress(OSError, CloisterError):
        embedded.stop(Home(root / "home"))
    if keep:
        stage.say(f"Kept: {root / 'home'}; it opens with: {KEPT_PASSPHRASE}")
        return
    shutil.rmtree(root, ignore_errors=True)


def _say_what_next(root: Path | None) -> None:
    lines = ["", "What to try next:"]
    if root is not None:
        lines += [
            f"  export CLOISTER_HOME={root / 'home'}",
            f"  cloister unlock                   its passphrase: {KEPT_PASSPHRASE}",
            "  cloister console                  all of it on one screen",
            "  cloister run show claims          what was trained, and base against tuned",
            "  cloister audit verify             the whole log, offline",
        ]
    else:
        lines.append("  cloister demo --keep              the same, and its home stays to look around in")
    lines += [
        "  cloister up && cloister init      an appliance of your own",
        "  cloister base import FOLDER -n N  a real model, from a local folder",
    ]
    print("\n".join(lines), flush=True)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as ctrl-c does, so that it cleans up."""

    def stop(_number: int, _frame: object) -> None:
        raise Interrupted("stopped by a signal")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
