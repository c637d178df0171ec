"""A database with the plumbing's tables only."""

from collections.abc import AsyncIterator

import pytest
from aifn_common.database import Database
from aifn_common.service import PLUMBING

from tests.support.backends import Backends


@pytest.fixture
async def db(backends: Backends) -> AsyncIterator[Database]:
    """A fresh database."""
    async with backends.database(PLUMBING) as made:
        yield made
