"""Databases for the plumbing's tests, and workers of the victim service in this process."""

from collections.abc import AsyncIterator

import pytest
from aifn_common.database import Database
from aifn_common.service import PLUMBING

from tests.support import victim
from tests.support.backends import Backends


@pytest.fixture
async def db(backends: Backends) -> AsyncIterator[Database]:
    """A fresh database with the plumbing's tables only."""
    async with backends.database(PLUMBING) as made:
        yield made


@pytest.fixture
async def url(backends: Backends) -> AsyncIterator[str]:
    """The address of a fresh database with the victim's tables."""
    made = await backends.new_database(victim.PACKAGE)
    yield made
    await backends.drop(made)


@pytest.fixture
async def victim_db(url: str) -> AsyncIterator[Database]:
    """A look into the same database."""
    from aifn_common.database import connect

    made = await connect(url, connections=5)
    yield made
    made.terminate()
