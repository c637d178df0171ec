"""A database of the scheduler, and its API."""

from collections.abc import AsyncIterator

import pytest
from aifn_common.database import Database, transaction
from aifn_scheduler.actions.access import load_seed
from aifn_scheduler.app import service
from aifn_scheduler.settings import SchedulerSettings

from tests.support.backends import Backends
from tests.support.http import Asker, asking
from tests.support.settings import settings


@pytest.fixture
def limits() -> SchedulerSettings:
    """The scheduler's settings as they come."""
    return settings(SchedulerSettings)


@pytest.fixture
async def db(backends: Backends, limits: SchedulerSettings) -> AsyncIterator[Database]:
    """A fresh database with the package's calls."""
    async with backends.database("aifn_scheduler") as made:
        async with transaction(made) as tx:
            await load_seed(tx, limits)
        yield made


@pytest.fixture
async def api(db: Database, limits: SchedulerSettings) -> AsyncIterator[Asker]:
    """The scheduler's API on that database."""
    async with asking(service, db, limits) as asker:
        yield asker
