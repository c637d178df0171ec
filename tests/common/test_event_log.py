"""The event log keeps what was heard, whole, and gives it back in the order in which it took effect."""

from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from aifn_common import clock, event_log
from aifn_common.database import Database, transaction
from aifn_common.event_log import CHUNK, Entry, Message, Order
from hypothesis import given
from hypothesis import strategies as st

from tests.support.backends import Backends

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
async def db(backends: Backends) -> AsyncIterator[Database]:
    """A database of a service that keeps a log."""
    async with backends.database("aifn_accounting") as made:
        yield made


def message(offset: int, *, topic: str = "aifn-usage-reported-v1", value: bytes | None = b"{}") -> Message:
    return Message(
        3, offset, 1_700_000_000_000, b"key", [("ce_id", b"1"), ("odd", b"\xff\x00"), ("none", None)], value, topic
    )


async def entries(db: Database, after: int = 0) -> list[Entry]:
    async with transaction(db) as tx:
        return [entry async for entry in event_log.read(tx, after=after)]


async def test_a_batch_of_many_rows_comes_back_as_one_transaction_byte_for_byte(db: Database) -> None:
    heard = [message(place, value=b"%d" % place) for place in range(2 * CHUNK + 7)]
    async with transaction(db) as tx:
        await event_log.keep(tx, heard, NOON)
        await event_log.keep(tx, [message(9, topic="aifn-job-placed-v1", value=None)], NOON)
    first, second = await entries(db)
    assert (first.kind, first.at, first.messages) == ("heard", NOON, heard)
    assert second.number >= first.number + len(heard)
    assert second.messages == [message(9, topic="aifn-job-placed-v1", value=None)]
    assert await db.fetchval("SELECT count(*) FROM event_log") == 4
    assert await entries(db, after=first.number + len(heard) - 1) == [second]


async def test_what_was_rolled_back_is_not_in_the_log_and_numbers_only_rise(db: Database) -> None:
    async with transaction(db) as tx:
        await event_log.keep(tx, [message(0)], NOON)
    with suppress(ZeroDivisionError):
        async with transaction(db) as tx:
            await event_log.keep(tx, [message(1)], NOON)
            raise ZeroDivisionError
    async with transaction(db) as tx:
        await event_log.keep(tx, [message(1), message(2)], NOON)
    first, second = await entries(db)
    assert (first.messages, second.messages) == ([message(0)], [message(1), message(2)])
    assert second.number > first.number


async def test_more_messages_than_a_transaction_has_numbers_for_are_refused(db: Database) -> None:
    async with transaction(db) as tx:
        assert await tx.fetchval("SELECT take_arrival_numbers(1000000)") > 0
    with pytest.raises(asyncpg.ProgramLimitExceededError, match="cannot have 1000001 messages"):
        async with transaction(db) as tx:
            await tx.fetchval("SELECT take_arrival_numbers(1000001)")


async def test_an_order_is_kept_with_its_moment_and_seed_unless_it_changed_nothing(db: Database) -> None:
    order = Order(
        "POST /v1/projects", {"query": ""}, by="mari", headers={"if-match": '"r1"'}, body=b"\x00{}", settings={"a": 1}
    )
    with clock.held(clock.Moment(NOON, b"s" * 16)):
        async with transaction(db) as tx:
            await event_log.keep_order(tx, order)
        async with transaction(db) as tx:
            await tx.execute("INSERT INTO project VALUES ('p', 't', 'f', 0, false, 'me', $1)", NOON)
            await event_log.keep_order(tx, order)
    (entry,) = await entries(db)
    assert (entry.kind, entry.at, entry.seed, entry.order) == ("order", NOON, b"s" * 16, order)


@given(st.datetimes(min_value=NOON.replace(tzinfo=None), timezones=st.just(UTC)), st.binary(min_size=16, max_size=16))
def test_the_same_moment_gives_the_same_time_and_the_same_ids_again(at: datetime, seed: bytes) -> None:
    found = []
    for _ in range(2):
        with clock.held(clock.Moment(at, seed)):
            found.append((clock.now(), [clock.short_id("alloc") for _ in range(20)], clock.now()))
    assert found[0] == found[1]
    assert found[0][0] == found[0][2] == at
    assert len(set(found[0][1])) == 20


def test_a_held_clock_stands_still_from_its_first_question_on() -> None:
    before = datetime.now(UTC)
    with clock.held() as moment:
        assert moment.at is None
        first = clock.now()
        assert clock.now() == first == moment.at
    assert before <= first
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(minutes=5)
