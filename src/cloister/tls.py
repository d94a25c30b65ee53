"""How connections of ours are encrypted where we are the client."""

from __future__ import annotations

import ssl
from pathlib import Path


def verifying_context(ca: str | Path | None = None) -> ssl.SSLContext:
    """Certificates and names are verified, by the authorities in the PEM file `ca` or by the system's.

    As Python's own default, but that one writes the keys of every session to where SSLKEYLOGFILE says. Errors: OSError
    (ssl.SSLError is one), where the file cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        context.load_verify_locations(ca)
    else:
        context.load_default_certs()
    return context
