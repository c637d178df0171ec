"""What a job's own news means for its hand-over, and how each side tells the other."""

from dataclasses import replace
from datetime import datetime
from typing import Literal

from aifn_common.database import Transaction
from aifn_common.outbox import announce
from aifn_events.handover import HandoverAnswered, HandoverAsked, HandoverSettled

from aifn_scheduler.domain import handover as rules
from aifn_scheduler.domain.exchange import Agreement
from aifn_scheduler.domain.lifecycle import Job, Life
from aifn_scheduler.store import handover as store
from aifn_scheduler.store.handover import Kept

Answer = Literal["accepted", "declined", "started", "finished"]


async def ask(tx: Transaction, kept: Kept, job: Job, allocation_id: str | None, now: datetime) -> None:
    """Home's budget is held, or the project has hours at the other factory: ask it."""
    asked = replace(kept, asked=True, allocation_id=allocation_id)
    await store.save(tx, asked, now)
    await say(tx, asked, job)


async def say(tx: Transaction, kept: Kept, job: Job, *, cancelled: bool = False) -> None:
    """Home tells the receiver what it has decided last."""
    step = kept.handover.home[-1]
    assert step in ("requested", "confirmed", "voided")
    await announce(
        tx,
        HandoverAsked(
            handover_id=kept.id,
            home=kept.home,
            receiver=kept.receiver,
            agreement_id=kept.agreement_id or str(kept.award_id),
            project_id=job.wish.project_id if kept.award_id else None,
            step=step,
            reason=kept.handover.reason,
            cancelled=cancelled,
            machine_id=kept.machine_id,
            partition_id=kept.partition_id,
            resource=kept.resource,
            nodes=kept.nodes,
            slices=kept.slices,
            amount=kept.handover.held,
            walltime_seconds=job.wish.walltime_seconds,
            script=job.wish.script,
            workload=job.wish.workload,
            answer_by=kept.handover.answer_by,
            end_by=kept.handover.end_by,
        ),
    )


async def answer(
    tx: Transaction, kept: Kept, step: Answer, at: datetime, *, outcome: str | None = None, because: str = ""
) -> None:
    """The receiver tells home."""
    said = {
        "handover_id": kept.id,
        "home": kept.home,
        "receiver": kept.receiver,
        "step": step,
        "at": at,
        "used": kept.handover.used if step == "finished" else None,
        "outcome": outcome,
        "because": because[:1000],
    }
    await announce(tx, HandoverAnswered.model_validate(said))


async def accept(tx: Transaction, kept: Kept, now: datetime) -> None:
    """The receiver has set aside what a guest may use: it answers, and waits for home's word."""
    accepted = kept.at(rules.answer(kept.handover, accept=True))
    await store.save(tx, accepted, now)
    await answer(tx, accepted, "accepted", now)


async def start(tx: Transaction, kept: Kept, started_at: datetime, now: datetime) -> None:
    """A guest runs; a further segment is no news."""
    if kept.handover.state != "confirmed":
        return
    started = kept.at(rules.start(kept.handover))
    await store.save(tx, started, now)
    await answer(tx, started, "started", started_at)


async def close(tx: Transaction, kept: Kept, after: Life, now: datetime) -> None:
    """A job has its final state; what is open of its hand-over ends with it."""
    if kept.side == "home":
        # It never went: its budget was refused, or it was taken back before anybody was asked.
        if not kept.asked:
            await store.save(tx, kept.at(replace(kept.handover, home=("voided",), reason="cancelled")), now)
        return
    if not kept.handover.receiver:
        if kept.handover.reason is None:
            kept = kept.at(rules.answer(kept.handover, accept=False))
            await answer(tx, kept, "declined", now, because=after.reason)
            await store.save(tx, kept, now)
        return
    if after.segments and after.dispatched_at is not None and kept.handover.state == "confirmed":
        kept = kept.at(rules.start(kept.handover))
    if kept.handover.state in ("confirmed", "started"):
        ended = after.ended_at or now
        counted = occupied(kept, after, ended)
        await finish(tx, kept, counted, ended, outcome=after.outcome or "completed", because=after.reason)


def occupied(kept: Kept, life: Life, until: datetime) -> int:
    """What a guest has occupied from its first start on, at most what was held for it; nothing, if it never ran."""
    # News of the start may come after that of the end: then it ran since it was sent, at most.
    began = life.started_at or life.dispatched_at
    if kept.handover.state != "started" or began is None:
        return 0
    seconds = max(0, int((until - began).total_seconds()))
    return min(kept.handover.held, seconds * kept.slices)


async def finish(tx: Transaction, kept: Kept, used: int, at: datetime, *, outcome: str, because: str = "") -> None:
    """The receiver says what was used, and books its side."""
    ended = kept.at(rules.finish(kept.handover, used))
    await store.save(tx, ended, at)
    await answer(tx, ended, "finished", at, outcome=outcome, because=because)
    await settle(tx, ended)


async def settle(tx: Transaction, kept: Kept) -> None:
    """Have this side's books say what a finished hand-over has cost; within an award its usage records say it."""
    if kept.agreement_id is None:
        return
    agreement = await store.find_agreement(tx, kept.agreement_id)
    assert agreement is not None, "the database keeps the agreement of every hand-over"
    if kept.handover.used:
        await announce(tx, _settled(kept, agreement, kept.handover.used))


def _settled(kept: Kept, agreement: Agreement, used: int) -> HandoverSettled:
    return HandoverSettled(
        handover_id=kept.id,
        side=kept.side,
        home=kept.home,
        receiver=kept.receiver,
        agreement_id=agreement.agreement_id,
        job_id=kept.job_id,
        allocation_id=kept.allocation_id if kept.side == "home" else None,
        pool_id=agreement.pool_id if kept.side == "receiver" else None,
        resource=kept.resource,
        amount=used,
        home_resource=agreement.home_resource,
        numerator=agreement.numerator,
        denominator=agreement.denominator,
    )
