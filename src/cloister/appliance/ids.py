"""Identifiers: two letters for the kind, a dash, sixty random bits in Crockford's base 32."""

from __future__ import annotations

import secrets

from cloister.api import ID_PREFIX

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(kind: str) -> str:
    """A fresh id, such as `ds-7k2m9c4xq0ab`. Errors: KeyError for a kind that has none."""
    return f"{ID_PREFIX[kind]}-{''.join(secrets.choice(_ALPHABET) for _ in range(12))}"
