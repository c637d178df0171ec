"""Awards from events: carried out at once, or kept until there is room. None is lost."""

from collections.abc import Mapping
from typing import Any

from aifn_common import clock, event_log
from aifn_common.database import Database, Transaction, transaction
from aifn_common.errors import NotFound, Refusal
from aifn_common.outbox import announce
from aifn_events.access import AwardGranted
from aifn_events.shares import AwardDeferred
from aifn_events.vocabulary import Subject

from aifn_accounting.actions.projects import open_project_from_award
from aifn_accounting.actions.trail import record
from aifn_accounting.domain.pools import Shortage
from aifn_accounting.store import decisions as store

AT_ONCE = 100


class AwardSettled(Refusal):
    """An award does not wait any more: it was carried out, or withdrawn."""

    code = "award_settled"

    def __init__(self, award_id: str, state: str) -> None:
        super().__init__(f"award {award_id} does not wait: it is {state.replace('_', ' ')}")
        self.award_id = award_id
        self.state = state


async def carry_out_award(tx: Transaction, event: AwardGranted) -> None:
    """Open what an award gives; if its pool or cap has no room, keep it and say so.

    Nothing of an award that waits has an effect: not its project, and not those of its lines for which there is room.
    Raises: AwardSettled if it was withdrawn, and what `open_project_from_award` raises for other reasons.
    """
    known = await store.find_pending(tx, event.award_id, lock=True)
    if known is not None and known.state != "waiting":
        raise AwardSettled(event.award_id, known.state)
    try:
        async with tx.transaction():
            await open_project_from_award(tx, event)
    except Shortage as shortage:
        await _keep(tx, event, shortage, known)
    else:
        await store.end_wait(tx, event.award_id, "carried_out", clock.now())


async def retry_award(tx: Transaction, award_id: str) -> store.PendingAward:
    """Try an award that waits again; what stands in its way now is kept with it. Raises NotFound, AwardSettled."""
    known = await _waiting(tx, award_id)
    event = AwardGranted.model_validate(known.event)
    try:
        async with tx.transaction():
            await open_project_from_award(tx, event)
    except Refusal as refusal:
        await _keep(tx, event, refusal, known)
    else:
        await store.end_wait(tx, award_id, "carried_out", clock.now())
    return await _get(tx, award_id)


async def withdraw_award(tx: Transaction, award_id: str, *, by: Subject, reason: str) -> store.PendingAward:
    """Give up an award that waits. Raises NotFound, AwardSettled."""
    known = await _waiting(tx, award_id)
    await store.end_wait(tx, award_id, "withdrawn", clock.now())
    await record(
        tx, actor=by, action="withdraw_award", thing="award", thing_id=award_id, project_id=known.project_id,
        factory_id=known.factory_id, reason=reason, before={"state": known.state}, after={"state": "withdrawn"},
    )  # fmt: skip
    return await _get(tx, award_id)


async def retry_awards(db: Database) -> int:
    """Try all awards that wait, first come first, each in its own transaction; returns how many were carried out.

    One that does not fit does not hold up those after it.
    """
    async with db.acquire() as connection:
        waiting = await store.waiting_awards(connection, limit=AT_ONCE)
    done = 0
    for award_id in waiting:
        with clock.held():
            async with transaction(db) as tx:
                known = await store.find_pending(tx, award_id, lock=True)
                if known is not None and known.state == "waiting":
                    now = await retry_award(tx, award_id)
                    if now.state == "carried_out":
                        done += 1
                        await event_log.keep_order(tx, event_log.Order("retry-award", {"award": award_id}))
    return done


async def _keep(tx: Transaction, event: AwardGranted, refusal: Refusal, known: store.PendingAward | None) -> None:
    whole: Mapping[str, Any] = event.model_dump(mode="json")
    await store.keep_waiting(
        tx,
        event.award_id,
        event.project_id,
        event.factory_id,
        whole,
        code=refusal.code,
        because=str(refusal),
        at=clock.now(),
    )
    if known is None or known.code != refusal.code:
        await announce(
            tx,
            AwardDeferred(
                award_id=event.award_id,
                project_id=event.project_id,
                factory_id=event.factory_id,
                code=refusal.code,
                because=str(refusal),
            ),
        )


async def _waiting(tx: Transaction, award_id: str) -> store.PendingAward:
    known = await store.find_pending(tx, award_id, lock=True)
    if known is None:
        raise NotFound(f"no award {award_id} waits")
    if known.state != "waiting":
        raise AwardSettled(award_id, known.state)
    return known


async def _get(tx: Transaction, award_id: str) -> store.PendingAward:
    known = await store.find_pending(tx, award_id)
    if known is None:
        raise NotFound(f"no award {award_id} waits")
    return known
