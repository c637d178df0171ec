"""Accounting's database, and somebody who asks its API."""

from collections.abc import AsyncIterator
from datetime import UTC

import pytest
from aifn_accounting.app import service
from aifn_accounting.settings import AccountingSettings
from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_common.database import Database

from tests.accounting.make import START, hours
from tests.support.backends import Backends
from tests.support.http import Asker, asking
from tests.support.settings import settings as make_settings


@pytest.fixture
def settings() -> AccountingSettings:
    """Accounting of the LUMI AI Factory."""
    return make_settings(AccountingSettings, pseudonym_key="a-key-for-tests-only")


@pytest.fixture(autouse=True)
def a_later_hour(real_time: None) -> None:
    """It is three hours after START."""
    from datetime import datetime

    clock.use(SimulatedClock(epoch=START + hours(3), started=datetime.now(UTC), factor=1))


@pytest.fixture
async def db(backends: Backends) -> AsyncIterator[Database]:
    """A fresh database with accounting's tables, empty."""
    async with backends.database("aifn_accounting") as made:
        yield made


@pytest.fixture
async def ask(db: Database, settings: AccountingSettings) -> AsyncIterator[Asker]:
    """Asks accounting as its allocation manager, until told otherwise."""
    async with asking(service, db, settings) as asker:
        asker.as_("allocation-manager")
        yield asker
