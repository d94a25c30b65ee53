"""`cloister`: the command line's entry. It maps errors to exit codes, and knows no noun but by its name.

It loads the command line within its own reach, so that ctrl-c is calm from the first moment on.
"""

from __future__ import annotations

import errno
import sys
from contextlib import suppress
from typing import NoReturn

from cloister.cli.leaving import Left, attend_ctrl_c, ignore_ctrl_c, leaving
from cloister.errors import CloisterError, OutOfSpace
from cloister.streams import let_go, write_whole, written_out

EPILOG = (
    "Exit codes: 0 done, 1 error, 2 bad input, 3 not found, 4 conflict, 5 locked, 6 not allowed, 7 tampered, "
    "8 ledger refuses, 9 not running, 10 out of space, 11 job failed, 12 interrupted, 13 needs an approval, "
    "130 left with ctrl-c."
)

NOUNS = {
    "vault": "The vault: unlock slots, rotation of keys, a check of all that is stored.",
    "dataset": "Datasets: bring rows in, sealed, and see what is there.",
    "base": "Base models: bring in a local folder of safetensors.",
    "run": "Fine-tuning runs: start, watch, leave, resume, compare with the base.",
    "job": "The queue: all that runs or waits, whatever it makes; stop it, resume it.",
    "evaluate": "Was it worth it? A run beside prompting, retrieval and a larger base, with a verdict.",
    "model": "Merged models: merge a run's adapter into 16 bits, export one, signed.",
    "serve": "Deployments: serve a merged model through vLLM.",
    "client": "Client applications and their API keys.",
    "backup": "Backups: make one into a folder, list them; `cloister restore` brings one back.",
    "approval": "Approvals: what was asked for, approve or refuse it, sign, verify.",
    "alerts": "What somebody has to look at: the cause, who is affected, the next safe command.",
    "policy": "Who may do what: check a set of policies, explain a decision, print the table.",
    "support": "What somebody who helps from outside may see: one archive, without secrets.",
    "audit": "The ledger: read, prove, verify, carry its tree heads out.",
}


def main() -> None:
    """Run the command line. Every error of ours ends in one message and its exit code."""
    try:
        with leaving():
            attend_ctrl_c()
            write_whole()
            try:
                with written_out():
                    _run()
            finally:  # while an interrupt still becomes `Left`: afterwards nobody takes it
                ignore_ctrl_c()
    except CloisterError as error:
        ignore_ctrl_c()
        _end(error)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        _end(_of_the_system(error))
    finally:
        let_go()


def _end(error: CloisterError) -> NoReturn:
    with suppress(OSError):  # the code says it also where nothing can be written
        _report(error)
    sys.exit(error.exit_code)


def _of_the_system(error: OSError) -> CloisterError:
    where = str(error.filename or "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "Make room. What was asked for may be done all the same: see `cloister status`."
        return OutOfSpace("there is no room for what this writes", where=where, remedy=remedy)
    return CloisterError(f"the system refuses: {error.strerror}", where=where)


def _run() -> None:
    if sys.argv[1:] in ([], ["console"]) and sys.stdin.isatty() and sys.stdout.isatty():
        from cloister.cli.opening import open_console

        open_console()
        return
    from cloister.cli.root import build

    build(NOUNS, EPILOG)(prog_name="cloister")


def _report(error: CloisterError) -> None:
    import json

    from cloister.cli.output import visible

    if "--json" in sys.argv:
        document = {
            "code": error.code,
            "detail": error.message,
            "where": error.where,
            "remedy": error.remedy,
            "values": error.values,
        }
        print(json.dumps({"ok": False, "error": document}))
        return
    if isinstance(error, Left):
        start = "\n" if sys.stderr.isatty() else ""  # the line may hold a prompt, or the terminal's ^C
        print(start + visible(f"left: {error.message} {error.remedy}"), file=sys.stderr)
        return
    place = f"{error.where}: " if error.where else ""
    print(f"error: {visible(place + error.message)}", file=sys.stderr)
    if error.remedy:
        print(f"  try: {visible(error.remedy)}", file=sys.stderr)


if __name__ == "__main__":
    main()
