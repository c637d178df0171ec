"""A person corrects a charge by hand: with a reason, linked to what it corrects, a large one with a second person."""

from collections.abc import Mapping

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.outbox import announce
from aifn_events.shares import AllocationChanged
from aifn_events.vocabulary import AllocationId, Subject

from aifn_accounting.actions.budget import post
from aifn_accounting.actions.trail import record
from aifn_accounting.domain.approvals import needs_second_person
from aifn_accounting.domain.corrections import Line, check_correction
from aifn_accounting.domain.ledger import Book
from aifn_accounting.store import allocations, ledger
from aifn_accounting.store import corrections as store
from aifn_accounting.store import people as people_store
from aifn_accounting.store import pools as pool_store
from aifn_accounting.store.allocations import Terms


async def check(tx: Transaction, terms: Terms, transfer_id: int, amount: int) -> store.Posted:
    """Whether a line may be corrected by so much, as things are; returns the line.

    Raises: NotFound, NotCorrectable, CorrectionTooLarge, Invalid.
    """
    line = await store.get_line(tx, terms.number, transfer_id)
    charged, given_back = await store.cost_of(tx, terms.number, line)
    check_correction(Line(line.id, line.kind, charged, given_back, line.own, line.undone), amount)
    return line


async def needs_approval(tx: Transaction, terms: Terms, amount: int, limits: Mapping[str, int]) -> bool:
    """Whether a correction needs a second person: all that people corrected of the project and resource counts."""
    known = await people_store.find_resource(tx, terms.resource)
    if known is None:
        return False
    had = await store.corrected_by_hand(tx, terms.project_id, terms.resource)
    return needs_second_person(had + abs(amount), unit=known.unit, units_per_node=known.units_per_node, limits=limits)


async def correct(
    tx: Transaction,
    allocation_id: AllocationId,
    transfer_id: int,
    amount: int,
    *,
    by: Subject,
    reason: str,
    approved_by: Subject | None = None,
) -> store.Correction:
    """Give back to an allocation what a charge should not have cost it, or take such a correction back.

    An overrun is paid first. What is taken back and was used meanwhile stands as overrun. Raises: as `check`.
    """
    number = await allocations.number_of(tx, allocation_id)
    (allocation,) = await ledger.lock_allocations(tx, also=[number])
    before = await allocations.terms_of(tx, number)
    line = await check(tx, before, transfer_id, amount)
    now = clock.now()
    account = await pool_store.account_of(tx, allocation.id, "corrected", allocation.resource)
    book = Book({number: allocation.balance})
    book.correct(number, amount, line.job_id, line.usage_number)
    with_corrected = allocation._replace(accounts={**allocation.accounts, "corrected": account})
    await post(tx, [with_corrected], book, now)
    correction_id = clock.short_id("corr")
    await store.add(tx, correction_id, number, line, amount, reason=reason, by=by, approved_by=approved_by, at=now)
    after = await allocations.terms_of(tx, number)
    made = await store.get(tx, correction_id)
    await record(
        tx, actor=by, action="correct", thing="allocation", thing_id=before.id, project_id=before.project_id,
        factory_id=before.factory_id, reason=reason, before=before, after=made,
    )  # fmt: skip
    await announce(
        tx,
        AllocationChanged(
            allocation_id=after.id,
            revision=after.revision,
            project_id=after.project_id,
            resource=after.resource,
            what="restored" if amount > 0 else "cut",
            granted=after.granted,
            starts_at=after.starts_at,
            ends_at=after.ends_at,
        ),
    )
    return made
