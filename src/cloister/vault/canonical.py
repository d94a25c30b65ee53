"""Canonical JSON (RFC 8785): one value, one sequence of bytes, so that digests and signatures hold.

Our own few lines, because sealed objects are also written where only the training libraries are
installed; tested against the `rfc8785` package. Knows nothing of what the values mean.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

_LARGEST = 2**53 - 1


def canonical_json(value: Any) -> bytes:
    """The canonical bytes of `value` (None, bool, int, float, str, list, tuple, dict with str keys).

    Raises ValueError for what JSON cannot say: other types, NaN, infinity, integers beyond 2**53 - 1,
    lone surrogates, nesting beyond the interpreter's limit.
    """
    try:
        return _text(value).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        if abs(value) > _LARGEST:
            raise ValueError("an integer beyond 2**53 - 1")
        return str(int(value))
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("a name that is no string")
        # RFC 8785, 3.2.3: names in the order of their UTF-16 code units.
        names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        return "{" + ",".join(f"{json.dumps(n, ensure_ascii=False)}:{_text(value[n])}" for n in names) + "}"
    raise ValueError(f"no JSON type: {type(value).__name__}")


def _number(value: float) -> str:
    """As ECMAScript's Number::toString says it (ECMA-262, 6.1.6.1.20)."""
    if value - value != 0:
        raise ValueError("no finite number")
    if value == 0:
        return "0"
    sign, all_digits, exponent = Decimal(repr(value)).as_tuple()
    point = len(all_digits) + int(exponent)
    digits = "".join(map(str, all_digits)).rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        text = digits + "0" * (point - count)
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        fraction = f".{digits[1:]}" if count > 1 else ""
        text = f"{digits[0]}{fraction}e{point - 1:+d}"
    return f"-{text}" if sign else text
