"""A database of the Data Lab, and its API."""

from collections.abc import AsyncIterator

import pytest
from aifn_common.database import Database
from aifn_datalab.app import service
from aifn_datalab.settings import DatalabSettings

from tests.support.backends import Backends
from tests.support.http import Asker, asking
from tests.support.settings import settings


@pytest.fixture
async def db(backends: Backends) -> AsyncIterator[Database]:
    """A fresh database."""
    async with backends.database("aifn_datalab") as made:
        yield made


@pytest.fixture
async def api(db: Database) -> AsyncIterator[Asker]:
    """The Data Lab's API on that database."""
    async with asking(service, db, settings(DatalabSettings)) as asker:
        yield asker
