from __future__ import annotations

from collections.abc import Iterator

import pytest
from gateway_stand_ins import Site


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

    `gateway.entries()` holds what is entered from now on: what this test causes, and, where there were many, what was
    only counted of the tests before.
    """
    _shared.furnish()
    _shared.known(_shared.key)
    _shared.gateway.since = 0
    _shared.gateway.since = len(_shared.gateway.entries())
    return _shared
