"""A registry's database, empty or with the first day's data, and somebody who asks its API."""

from collections.abc import AsyncIterator

import pytest
from aifn_common.database import Database
from aifn_common.service import prepare
from aifn_registry.app import service
from aifn_registry.settings import RegistrySettings

from tests.support.backends import Backends
from tests.support.http import Asker, asking
from tests.support.settings import settings as make_settings


@pytest.fixture
def settings() -> RegistrySettings:
    """A registry run by the LUMI AI Factory: reports stay fresh for 300 seconds."""
    return make_settings(RegistrySettings)


@pytest.fixture
async def db(backends: Backends) -> AsyncIterator[Database]:
    """A fresh database with the registry's tables, empty."""
    async with backends.database("aifn_registry") as made:
        yield made


@pytest.fixture
async def seeded(db: Database, settings: RegistrySettings) -> Database:
    """The same with the first day's data, all announcements already sent."""
    await prepare(service, settings, db)
    await db.execute("TRUNCATE outbox")
    return db


@pytest.fixture
async def ask(seeded: Database, settings: RegistrySettings) -> AsyncIterator[Asker]:
    """Asks the seeded registry as an operator of the LUMI AI Factory, until told otherwise."""
    async with asking(service, seeded, settings) as asker:
        yield asker.as_("operator", entitlements=["operator:factory:lumi-aif"])
