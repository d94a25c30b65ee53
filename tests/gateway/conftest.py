from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from gateway_stand_ins import Site, wait_for


@pytest.fixture
def bare_site() -> Iterator[Site]:
    """A site of its own without a gateway that runs."""
    with Site.open() as site:
        yield site


@pytest.fixture
def own_site(bare_site: Site) -> Site:
    """A site of its own, for tests that stop the gateway or spoil it."""
    bare_site.start()
    return bare_site


@pytest.fixture(scope="module")
def _shared() -> Iterator[Site]:
    with Site.open() as site:
        site.start()
        yield site


@pytest.fixture
def site(_shared: Site) -> Site:
    """A site with a gateway that runs, shared by a file's tests: each finds it as new, with a key of its own.

    `gateway.entries()` holds only what this test causes.
    """
    _shared.furnish()
    wait_for(lambda: _shared.status(_shared.key) == 200)
    _shared.gateway.since = datetime.now(UTC).isoformat(timespec="milliseconds")
    return _shared
