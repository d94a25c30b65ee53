"""Which words of a log record may leave the engine: those that stand, to the letter, in the program's own source.

A log line may quote a prompt. The literal that a logging call has in the source cannot, so it passes, with every
value that would be put into it left out. What is no such literal is not told.
"""

from __future__ import annotations

import ast
import logging
import re
from functools import lru_cache
from pathlib import Path

MAX_WORDS = 300
LEFT_OUT = "…"
_VALUE = re.compile(r"%(?:\(\w+\))?[-#0 +]*(?:\d+|\*)?(?:\.(?:\d+|\*))?[hlL]?[a-zA-Z%]")
_MAX_SOURCE = 1 << 20


def vetted(record: logging.LogRecord) -> str | None:
    """The sentence of a record without its values; None where its words are not the source's own."""
    if not isinstance(record.msg, str) or record.msg not in _literals(record.pathname, record.lineno):
        return None
    words = record.msg
    if record.args:
        words = _VALUE.sub(lambda value: "%" if value[0] == "%%" else LEFT_OUT, words)
    return " ".join(words.split())[:MAX_WORDS]


@lru_cache(maxsize=256)
def _literals(filename: str, line: int) -> frozenset[str]:
    """The texts that calls on that line of a source file begin their arguments with."""
    try:
        source = Path(filename)
        if source.stat().st_size > _MAX_SOURCE:
            return frozenset()
        tree = ast.parse(source.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return frozenset()
    return frozenset(
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and isinstance(node.args[0].value, str)
    )
