"""Members with real keys, real gates and real databases; between them nothing, memory or HTTP, as a test likes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.federation.make import Federation, Gatehouse
from tests.support.backends import Backends


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Two factories, the JU and an antenna, with a directory that two root keys have signed."""
    return Federation.make(tmp_path)


@pytest.fixture
async def lumi(federation: Federation, backends: Backends) -> AsyncIterator[Gatehouse]:
    """The gate of a factory."""
    async with federation.gatehouse("lumi-aif", backends) as made:
        yield made


@pytest.fixture
async def bsc(federation: Federation, backends: Backends) -> AsyncIterator[Gatehouse]:
    """The gate of another factory."""
    async with federation.gatehouse("bsc-aif", backends) as made:
        yield made


@pytest.fixture
async def ju(federation: Federation, backends: Backends) -> AsyncIterator[Gatehouse]:
    """The gate of the JU."""
    async with federation.gatehouse("ju", backends) as made:
        yield made
