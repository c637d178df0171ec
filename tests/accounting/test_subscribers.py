"""What accounting hears, from a message on the real broker to the effect in its database."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aifn_accounting.app import service
from aifn_accounting.rebuild.books import rebuild
from aifn_accounting.settings import AccountingSettings
from aifn_common import event_log
from aifn_common.database import Database, connect, transaction
from aifn_common.service import Worker
from aifn_events.placement import BudgetHeld, BudgetReleased
from aifn_events.registry import MachineDescribed
from aifn_events.usage import UsageCharged, UsageDayStated, UsageReported
from pydantic import SecretStr

from tests.accounting.make import GRANTED, START, award, balances, broken_checks, closed, hours, placed, used
from tests.support.backends import Backends
from tests.support.kafka import read_all, send

pytestmark = pytest.mark.kafka


@pytest.fixture
async def config(backends: Backends, kafka: str, settings: AccountingSettings) -> AsyncIterator[AccountingSettings]:
    """Settings with a database and a broker."""
    url = await backends.new_database("aifn_accounting")
    yield settings.model_copy(update={"database_url": SecretStr(url), "kafka": kafka})
    await backends.drop(url)


@pytest.fixture
async def db(config: AccountingSettings) -> AsyncIterator[Database]:
    """The database of a worker that is running."""
    url = config.database_url.get_secret_value()
    made = await connect(url, connections=4)
    async with Worker(service, config):
        yield made
    made.terminate()


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(30):
        while not await what():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_job_s_money_from_award_to_release_with_every_message_sent_twice(
    db: Database, kafka: str, config: AccountingSettings, backends: Backends
) -> None:
    async def there(table: str, count: int = 1) -> None:
        async def enough() -> bool:
            return bool(await db.fetchval(f"SELECT count(*) FROM {table}") >= count)

        await until(enough)

    machine, given, job, end = MachineDescribed.example(), award(), placed(amount=1000), closed()
    elsewhere = award("p2", factory_id="bsc-aif")
    await send(kafka, machine, machine, elsewhere, given, given)
    await there("resource")
    await there("allocation")
    await send(kafka, job, job)
    await there("job_budget")
    record, wrong = used(amount=600), used("j2", ended_at=START - hours(1))
    await send(kafka, record, record, wrong, record, UsageDayStated.example(), end, end)
    await there("dead_letter")
    await there("usage_day")
    await there("job_budget WHERE released_at IS NOT NULL")

    async def sent() -> bool:
        return bool(await db.fetchval("SELECT count(*) = 0 FROM outbox"))

    await until(sent)
    assert await balances(db) == (GRANTED - 600, 0, 600, 0)
    assert await db.fetchval("SELECT array_agg(id) FROM project") == ["p1"], "what bsc-aif hosts opens there"
    assert await db.fetchval("SELECT code FROM dead_letter") == "ends_before_start"
    for kind in (BudgetHeld, UsageCharged, BudgetReleased):
        assert len(await read_all(kafka, kind.topic)) == 1
    assert await broken_checks(db) == []
    heard = [one async for one in entries(db) if one.messages and one.messages[0].topic == UsageReported.topic]
    assert sum(len(one.messages) for one in heard) == 4
    said: list[str] = []
    name = f"test_{secrets.token_hex(6)}"
    await backends.execute(f'CREATE DATABASE "{name}"')
    url = backends.url(name)
    assert await rebuild(config, url, shuffle=1, say=said.append), said
    await backends.drop(url)


async def entries(db: Database) -> AsyncIterator[event_log.Entry]:
    """What the event log has."""
    async with transaction(db) as tx:
        async for one in event_log.read(tx):
            yield one
