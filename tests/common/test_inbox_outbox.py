"""An event has its effect once, and is announced if and only if the effect was committed."""

import pytest
from aifn_common.database import Database, Transaction, transaction
from aifn_common.inbox import deliver_once
from aifn_common.outbox import announce, waiting
from aifn_events.placement import JobPlaced


async def test_the_same_event_delivered_twice_runs_its_action_once(db: Database) -> None:
    seen: list[str] = []
    event = JobPlaced.example().model_copy(update={"source": "urn:aifn:a:b"})

    async def act(tx: Transaction, placed: JobPlaced) -> None:
        seen.append(placed.id)

    assert await deliver_once(db, event, act)
    assert not await deliver_once(db, event, act)
    assert seen == [event.id]


async def test_the_same_id_from_another_source_is_another_event(db: Database) -> None:
    seen: list[str] = []
    event = JobPlaced.example()

    async def act(tx: Transaction, placed: JobPlaced) -> None:
        seen.append(placed.source)

    for source in ("urn:aifn:a:b", "urn:aifn:c:b"):
        await deliver_once(db, event.model_copy(update={"source": source}), act)
    assert seen == ["urn:aifn:a:b", "urn:aifn:c:b"]


async def test_an_action_that_fails_leaves_neither_memory_nor_announcement(db: Database) -> None:
    event = JobPlaced.example().model_copy(update={"source": "urn:aifn:a:b"})

    async def act(tx: Transaction, placed: JobPlaced) -> None:
        await announce(tx, placed)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await deliver_once(db, event, act)
    assert await waiting(db) == 0
    assert await db.fetchval("SELECT count(*) FROM inbox") == 0


async def test_what_a_rolled_back_transaction_announced_is_never_said(db: Database) -> None:
    async with transaction(db) as tx:
        await announce(tx, JobPlaced.example())
    assert await waiting(db) == 1
