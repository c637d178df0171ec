"""Budget for jobs: held when a job is placed, released when it is over."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Refusal, Stale
from aifn_common.outbox import announce, announce_all
from aifn_events.placement import BudgetHeld, BudgetRefused, BudgetReleased, JobClosed, JobPlaced
from aifn_events.shares import ThresholdReached

from aifn_accounting.actions import inference
from aifn_accounting.domain.ledger import Allocation, Book, Hold, JobOver, ProjectClosed, choose_to_hold, may_release
from aifn_accounting.domain.policies import thresholds_reached
from aifn_accounting.store import ledger as store
from aifn_accounting.store import order
from aifn_accounting.store import usage as usage_store


async def hold_budget(tx: Transaction, event: JobPlaced) -> None:
    """Hold what a placed job may use, and say that it may start, or why it may not.

    A placement with a higher revision takes the place of the one before. Raises Stale for a lower one.
    """
    await order.hold_in_project(tx, event.job_id, event.project_id)
    budget = await store.get_budget(tx, event.job_id)
    if budget is not None and budget.revision is not None:
        if event.revision < budget.revision:
            raise Stale(f"placement {event.revision} of {event.job_id} is older than {budget.revision}, which is known")
        if event.revision == budget.revision:
            return
    old = [] if budget is None or budget.allocation_number is None else [budget.allocation_number]
    allocations = await store.lock_allocations(tx, projects=[event.project_id], resource=event.resource, also=old)
    before = (await store.get_holds(tx, [event.job_id])).get(event.job_id) if old else None
    drawn = (await store.drawn_if_used(tx, [event.job_id])).get(event.job_id, {})
    book = Book({one.number: one.balance for one in allocations})
    given_back = book.release(before) if before is not None and not before.released else 0
    hold: Hold | None = None
    try:
        if budget is not None and budget.closed_at is not None:
            raise JobOver(event.job_id)
        payer = await _choose_payer(tx, event, book, allocations)
        await inference.meter(tx, event, payer)
        hold = _hold(event, book, payer, drawn)
        answer: BudgetHeld | BudgetRefused = BudgetHeld(
            project_id=event.project_id,
            job_id=event.job_id,
            revision=event.revision,
            allocation_id=payer.id,
            resource=event.resource,
            amount=event.amount,
        )
    except Refusal as refusal:
        answer = BudgetRefused(
            project_id=event.project_id,
            job_id=event.job_id,
            revision=event.revision,
            resource=event.resource,
            asked=event.amount,
            available=getattr(refusal, "available", 0),
            reason=refusal.code,
        )
    await store.put_hold(tx, event.job_id, event.project_id, event.revision, hold)
    await inference.remember(tx, event)
    await post(tx, allocations, book, clock.now())
    if hold is None and before is not None:
        await announce_releases(tx, allocations, [(before, given_back)])
    await announce(tx, answer)


async def _choose_payer(tx: Transaction, event: JobPlaced, book: Book, allocations: Sequence[Allocation]) -> Allocation:
    project = await store.find_project(tx, event.project_id)
    if project is not None and project.closed:
        raise ProjectClosed(project.id)
    fitting = [one for one in allocations if one.project_id == event.project_id and one.resource == event.resource]
    return choose_to_hold(
        fitting, event.project_id, event.resource, amount=event.amount, at=event.starts_at, left=book.left
    )


def _hold(event: JobPlaced, book: Book, payer: Allocation, drawn: Mapping[int, int]) -> Hold:
    hold = Hold(event.job_id, payer.number, event.amount, drawn.get(payer.number, 0))
    book.hold(payer, hold)
    return hold


async def close_job(tx: Transaction, event: JobClosed) -> None:
    """Remember that a job is over, and release the rest of its hold if all its usage is charged already."""
    await order.lock_job(tx, event.job_id)
    budget = await store.get_budget(tx, event.job_id)
    if budget is not None and budget.closed_at is not None:
        return
    # The allocation before the job's own row, in the order of those who charge usage.
    old = [] if budget is None or budget.allocation_number is None else [budget.allocation_number]
    allocations = await store.lock_allocations(tx, also=old)
    await store.close_job(
        tx, event.job_id, event.project_id, segments=event.segments, outcome=event.outcome, at=event.closed_at
    )
    if not allocations:
        return
    hold = (await store.get_holds(tx, [event.job_id]))[event.job_id]
    segments = (await usage_store.count_segments(tx, [event.job_id])).get(event.job_id, 0)
    if not may_release(hold, segments):
        return
    now = clock.now()
    book = Book({one.number: one.balance for one in allocations})
    released = book.release(hold)
    await store.mark_released(tx, [hold.job_id], now)
    await post(tx, allocations, book, now)
    await announce_releases(tx, allocations, [(hold, released)])


async def post(tx: Transaction, allocations: Iterable[Allocation], book: Book, now: datetime) -> None:
    """Write what a book says: its new entries, the balances they lead to, and which thresholds those have passed."""
    balances = book.settle()
    by_number = {one.number: one for one in allocations}
    if entries := book.take():
        await store.add_transfers(tx, by_number, entries, now)
    if balances:
        await store.put_balances(tx, balances)
    passed = [
        ThresholdReached(
            allocation_id=by_number[number].id,
            project_id=by_number[number].project_id,
            resource=by_number[number].resource,
            of="allocation",
            percent=percent,
            used=after.charged,
            limit=after.granted,
        )
        for number, after in balances.items()
        for percent in thresholds_reached(by_number[number].balance, after)
    ]
    await announce_all(tx, passed)


async def announce_releases(
    tx: Transaction, allocations: Iterable[Allocation], released: Sequence[tuple[Hold, int]]
) -> None:
    """Say what went back to which allocation."""
    by_number = {one.number: one for one in allocations}
    await announce_all(
        tx,
        [
            BudgetReleased(
                project_id=by_number[hold.allocation].project_id,
                job_id=hold.job_id,
                allocation_id=by_number[hold.allocation].id,
                resource=by_number[hold.allocation].resource,
                released=amount,
            )
            for hold, amount in released
        ],
    )
