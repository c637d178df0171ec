"""Usage: charged in batches, each record once, in whatever order it is heard."""

import asyncio
import hmac
from collections.abc import Callable, Container, Coroutine, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Any, TypeVar

from aifn_common import clock
from aifn_common.copying import moment
from aifn_common.database import Transaction
from aifn_common.errors import Refusal, Stale
from aifn_common.kafka import Rejected
from aifn_common.outbox import announce_all, announce_series
from aifn_events.usage import UsageCharged, UsageDayStated
from aifn_events.vocabulary import JobId, ProjectId, ResourceId, Subject

from aifn_accounting.actions.budget import announce_releases, post
from aifn_accounting.domain.ledger import Allocation, Book, Entry, Hold, may_release
from aifn_accounting.domain.usage import (
    Charging,
    ConflictingUsage,
    Identity,
    Intake,
    Rates,
    Size,
    UnknownProject,
    Usage,
    check,
    identity_of,
    statement_of,
)
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import ledger as store
from aifn_accounting.store import order, suspense
from aifn_accounting.store import usage as usage_store

A = TypeVar("A")
W = TypeVar("W")


class Pseudonyms:
    """Names for people that tell nobody who they are: the same person has the same one while the key stays."""

    def __init__(self, key: str) -> None:
        self._key = key

    def of(self, user: str) -> str:
        """The pseudonym of a local user."""
        return _pseudonym(self._key, user)


@lru_cache(maxsize=100_000)
def _pseudonym(key: str, user: str) -> str:
    return "u-" + hmac.new(key.encode(), user.encode(), sha256).hexdigest()[:16]


async def state_usage_day(tx: Transaction, event: UsageDayStated) -> None:
    """Keep what a site says it has sent for a day. Raises Stale for an older word than the one known."""
    known = await usage_store.day_revision(tx, event.machine_id, event.day)
    if known is not None and event.revision < known:
        raise Stale(f"statement {event.revision} of {event.machine_id} for {event.day} is older than {known}")
    await usage_store.put_day(
        tx,
        event.machine_id,
        event.day,
        revision=event.revision,
        records=event.records,
        totals=[total.model_dump() for total in event.totals],
        digest=event.digest,
        at=clock.now(),
    )


async def charge_usage(tx: Transaction, events: Sequence[Usage], settings: AccountingSettings) -> Sequence[Rejected]:
    """Charge a batch of usage records, each once, in any order; returns those that were refused."""
    now = clock.now()
    await order.lock_usage(tx)
    sizes = await usage_store.sizes(tx)
    arriving = [(identity_of(event), event) for event in events]
    known, (plausible, rejected) = await _beside(
        usage_store.known_revisions(tx, [identity for identity, _ in arriving]),
        lambda: _plausible(arriving, sizes, now),
    )
    if not plausible:
        return rejected
    intake: Intake[Usage] = Intake(known, await usage_store.last_number(tx))
    charging, allocations = await _lock_payers(tx, [event for _, event in plausible], known)
    names = Pseudonyms(settings.pseudonym_key.get_secret_value())
    charging.holds, (unpaid, refused) = await _beside(
        _holds(tx, charging, allocations, [event for _, event in plausible]),
        lambda: _take_in(plausible, intake, charging),
    )
    rejected += refused
    rejected += await _conflicting(tx, intake)
    waiting: list[int] = []
    await store.add_transfers(
        tx, {one.number: one for one in allocations}, _charge_effective(charging, intake, unpaid, waiting), now
    )
    charges = charging.charges  # all of them, now that the transfers are written
    at = moment(now)
    await usage_store.add_records(
        tx,
        (
            usage_store.record_row(number, event, charges.get(number), names.of(event.local_user), at)
            for number, event in intake.new.items()
        ),
    )
    await usage_store.add_further_charges(tx, charging.further)
    await suspense.add(tx, waiting, now)
    released = await _release_complete(tx, charging, {event.job_id for event in intake.new.values()})
    await store.mark_released(tx, [hold.job_id for hold, _ in released], now)
    await post(tx, allocations, charging.book, now)
    if intake.new:
        await announce_series(tx, UsageCharged, min(intake.new), max(intake.new))
    await announce_releases(tx, allocations, released)
    return rejected


async def settle_suspense(tx: Transaction, *, limit: int = 1000) -> int:
    """Charge records that waited for an allocation and have one now; returns how many, at most `limit`."""
    await order.lock_usage(tx)
    now = clock.now()  # under the lock: a month that is closed has not closed since
    found = await suspense.payable(tx, limit=limit)
    if not found:
        return 0
    charging, allocations = await _lock_payers(tx, found, {})
    charging.holds = await _holds(tx, charging, allocations, found)
    for one in found:
        charging.charge(one.usage_number, one, None)
    charges = [*charging.charges.values(), *charging.further]
    paying = {(charge.usage, charge.allocation) for charge in charges}
    before = await suspense.paid_before(tx, [one.usage_number for one in found])
    gone = [charge for charge in before if (charge.usage, charge.allocation) not in paying]
    last = await usage_store.last_number(tx)
    positions = {one.usage_number: last + place for place, one in enumerate(found, start=1)}
    await usage_store.add_further_charges(tx, charges + gone, positions)
    released = await _release_complete(tx, charging, {one.job_id for one in found})
    await store.mark_released(tx, [hold.job_id for hold, _ in released], now)
    await post(tx, allocations, charging.book, now)
    await suspense.settle(tx, [one.usage_number for one in found], now)
    await announce_all(tx, await suspense.settled_charges(tx, [one.usage_number for one in found]))
    await announce_releases(tx, allocations, released)
    return len(found)


async def attribute_usage(tx: Transaction, number: int, project_id: ProjectId, *, by: Subject, reason: str) -> None:
    """Say which project pays a record that waits; it is charged as soon as that has an allocation.

    Raises: NotFound, UnknownProject.
    """
    await order.lock_usage(tx)
    await suspense.get_waiting(tx, number)
    if await store.find_project(tx, project_id) is None:
        raise UnknownProject(project_id)
    await suspense.attribute(tx, number, project_id, by=by, at=clock.now(), reason=reason)
    await settle_suspense(tx)


async def _beside(answer: Coroutine[Any, Any, A], work: Callable[[], W]) -> tuple[A, W]:
    """Work while the database looks for its answer; both are over before an error of either goes on."""
    asking = asyncio.create_task(answer)
    await asyncio.sleep(0)  # so that it is asked before the work begins
    try:
        done = work()
    except BaseException:
        await asyncio.wait([asking])
        raise
    return await asking, done


def _charge_effective(
    charging: Charging[Usage], intake: Intake[Usage], unpaid: Container[int], waiting: list[int]
) -> Iterator[Entry]:
    """Charge what counts from now on, and say what that moves; `waiting` gets those that nobody can pay yet."""
    for number, before in intake.effective():
        if number in unpaid:
            waiting.append(number)
            charging.give_back(number, intake.new[number], before)
        else:
            charging.charge(number, intake.new[number], before)
        yield from charging.book.take()


def _plausible(
    arriving: Iterable[tuple[Identity, Usage]], sizes: Mapping[ResourceId, Size], now: datetime
) -> tuple[list[tuple[Identity, Usage]], list[Rejected]]:
    """Those that can be true, and those that cannot."""
    found = []
    rejected = []
    for arrived in arriving:
        try:
            check(arrived[1], sizes, now)
        except Refusal as refusal:
            rejected.append(Rejected(arrived[1], refusal))
        else:
            found.append(arrived)
    return found, rejected


def _take_in(
    plausible: Iterable[tuple[Identity, Usage]], intake: Intake[Usage], charging: Charging[Usage]
) -> tuple[set[int], list[Rejected]]:
    """Number the records that are new; returns the numbers of those that nobody can pay, and what was refused."""
    unpaid = set()
    rejected = []
    for identity, event in plausible:
        try:
            number = intake.take(identity, event)
        except Refusal as refusal:
            rejected.append(Rejected(event, refusal))
        else:
            if number is not None and not charging.has_payer(event):
                unpaid.add(number)
    return unpaid, rejected


async def _lock_payers(
    tx: Transaction, events: Sequence[Usage], known: Mapping[Identity, Mapping[int, int]]
) -> tuple[Charging[Usage], list[Allocation]]:
    """Lock and read what the records may touch: the allocations of their projects, and of revisions before them."""
    earlier = await usage_store.earlier_charges(tx, [revisions[max(revisions)] for revisions in known.values()])
    allocations = await store.lock_allocations(
        tx,
        projects={event.project_id for event in events},
        also={charge.allocation for charges in earlier.values() for _, charge in charges},
    )
    by_resource: dict[tuple[ProjectId, ResourceId], list[Allocation]] = {}
    for one in allocations:
        by_resource.setdefault((one.project_id, one.resource), []).append(one)
    book = Book({one.number: one.balance for one in allocations})
    return Charging(book, by_resource, {}, Rates(await usage_store.rate_cards(tx)), earlier), allocations


async def _holds(
    tx: Transaction, charging: Charging[Usage], allocations: list[Allocation], events: Iterable[Usage]
) -> dict[JobId, Hold]:
    """The holds of the records' jobs. They only change under the lock of their allocation, which is held."""
    jobs = {event.job_id for event in events}
    jobs.update(job_id for charges in charging.earlier.values() for job_id, _ in charges)
    holds = await store.get_holds(tx, list(jobs))
    elsewhere = {hold.allocation for hold in holds.values()} - {one.number for one in allocations}
    if elsewhere:
        # A job that used another project's budget than it held. Out of order, so two may wait for each other here:
        # then one is ended by the database and tries again.
        more = await store.lock_allocations(tx, also=elsewhere)
        charging.book.open({one.number: one.balance for one in more})
        allocations += more
        holds = await store.get_holds(tx, list(jobs))
    return holds


async def _conflicting(tx: Transaction, intake: Intake[Usage]) -> list[Rejected]:
    """Of the records that are stored already: those that say something else now."""
    if not intake.repeated:
        return []
    stored = await usage_store.statements(tx, [number for _, number in intake.repeated])
    return [
        Rejected(event, ConflictingUsage(event.local_job_id, event.revision))
        for event, number in intake.repeated
        if statement_of(event) != stored[number]
    ]


async def _release_complete(
    tx: Transaction, charging: Charging[Usage], job_ids: Iterable[JobId]
) -> list[tuple[Hold, int]]:
    """Release the rest of the holds of jobs that are over, if this batch brought the last of their usage."""
    over = [
        hold for hold in map(charging.holds.get, job_ids) if hold and hold.expected is not None and not hold.released
    ]
    if not over:
        return []
    segments = await usage_store.count_segments(tx, [hold.job_id for hold in over])
    return [(hold, charging.release(hold)) for hold in over if may_release(hold, segments.get(hold.job_id, 0))]
