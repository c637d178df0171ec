"""A database of skills, and its API."""

from collections.abc import AsyncIterator

import pytest
from aifn_common.database import Database
from aifn_skills.app import service
from aifn_skills.settings import SkillsSettings

from tests.support.backends import Backends
from tests.support.http import Asker, asking
from tests.support.settings import settings


@pytest.fixture
async def db(backends: Backends) -> AsyncIterator[Database]:
    """A fresh database."""
    async with backends.database("aifn_skills") as made:
        yield made


@pytest.fixture
async def api(db: Database) -> AsyncIterator[Asker]:
    """The API of skills on that database."""
    async with asking(service, db, settings(SkillsSettings)) as asker:
        yield asker
