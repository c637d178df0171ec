"""Settles work that left its award's machines, in the clearing account between two factories."""

from contextlib import suppress

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Invalid, Refusal
from aifn_events.handover import HandoverSettled
from aifn_events.vocabulary import AllocationId, JobId

from aifn_accounting.actions.budget import announce_releases, post
from aifn_accounting.domain.exchange import Exchange, legs
from aifn_accounting.domain.ledger import POOL_ROLES, Book
from aifn_accounting.domain.ledger import Pool as Share
from aifn_accounting.domain.pools import PoolExhausted, WrongPool
from aifn_accounting.store import allocations, decisions, ledger, order
from aifn_accounting.store import pools as store
from aifn_accounting.store.pools import Move


class SettledBefore(Refusal):
    """This settlement was booked before."""

    code = "settled_before"


async def settle_handover(tx: Transaction, event: HandoverSettled) -> None:
    """Book this factory's side of a hand-over that has ended. Said again, it changes nothing.

    Raises: Invalid, if the event does not name who pays or gives; what the two sides below raise.
    """
    exchange = Exchange(
        home=event.home,
        receiver=event.receiver,
        resource=event.resource,
        amount=event.amount,
        home_resource=event.home_resource,
        numerator=event.numerator,
        denominator=event.denominator,
    )
    with suppress(SettledBefore):
        if event.side == "home" and event.allocation_id is not None:
            await settle_home(
                tx,
                event.handover_id,
                exchange,
                agreement=event.agreement_id,
                job_id=event.job_id,
                allocation_id=event.allocation_id,
            )
        elif event.side == "receiver" and event.pool_id is not None:
            await settle_receiver(
                tx,
                event.handover_id,
                exchange,
                agreement=event.agreement_id,
                job_id=event.job_id,
                pool_id=event.pool_id,
            )
        else:
            raise Invalid(f"{event.handover_id} names no {'allocation' if event.side == 'home' else 'pool'}")


async def settle_home(
    tx: Transaction,
    settlement_id: str,
    exchange: Exchange,
    *,
    agreement: str,
    job_id: JobId,
    allocation_id: AllocationId,
) -> None:
    """Book the home factory's side, once: what the job held is released, its allocation pays at the agreed rate, and
    the hours that were not used here go back to their pool, against the clearing account.

    The use has happened, so it is charged even beyond what is left. Raises: SettledBefore, NotFound, Invalid.
    """
    await order.lock_job(tx, job_id)
    number = await allocations.number_of(tx, allocation_id)
    (allocation,) = await ledger.lock_allocations(tx, also=[number])
    if allocation.resource != exchange.home_resource:
        raise Invalid(f"{allocation_id} holds {allocation.resource}, and the agreement names {exchange.home_resource}")
    terms = await allocations.terms_of(tx, number)
    now = clock.now()
    paid = exchange.home_amount
    await _keep_once(tx, settlement_id, "home", exchange, agreement, job_id, number, terms.pool_id)
    book = Book({number: allocation.balance})
    hold = (await ledger.get_holds(tx, [job_id])).get(job_id)
    released = []
    if hold is not None and not hold.released and hold.allocation == number:
        released.append((hold, book.release(hold)))
        await allocations.release_hold(tx, job_id, now)
    book.charge(number, paid, None, job_id, None)
    await post(tx, [allocation], book, now)
    await announce_releases(tx, [allocation], released)
    if terms.pool_id is None:
        share: Share = "national" if terms.pool == "national" else "union"
        pool = await store.account_of(tx, f"pool:{share}", POOL_ROLES[share], exchange.home_resource)
    else:
        pool = (await store.regain(tx, terms.pool_id, paid)).account
    await _post(tx, exchange, {"pool": pool}, "home", job_id)


async def settle_receiver(
    tx: Transaction, settlement_id: str, exchange: Exchange, *, agreement: str, job_id: JobId, pool_id: str
) -> None:
    """Book the receiving factory's side, once: the pool that the agreement names gives what was used.

    Raises: SettledBefore, NotFound, WrongPool, PoolExhausted.
    """
    before = await store.find_pool(tx, pool_id)
    if before.resource != exchange.resource:
        raise WrongPool(f"pool {pool_id} holds {before.resource}, and {exchange.resource} was used")
    await _keep_once(tx, settlement_id, "receiver", exchange, agreement, job_id, None, pool_id)
    pool = await store.take(tx, pool_id, exchange.amount)
    if pool is None:
        raise PoolExhausted(pool_id, asked=exchange.amount, available=before.available)
    await _post(tx, exchange, {"pool": pool.account}, "receiver", job_id)


async def _keep_once(
    tx: Transaction,
    settlement_id: str,
    side: str,
    exchange: Exchange,
    agreement: str,
    job_id: JobId,
    number: int | None,
    pool_id: str | None,
) -> None:
    own, other = (exchange.home_resource, exchange.home_amount), (exchange.resource, exchange.amount)
    if side == "receiver":
        own, other = other, own
    row = (
        settlement_id, side, exchange.clearing, agreement, job_id, number, pool_id, *own, *other, exchange.numerator,
        exchange.denominator, clock.now(),
    )  # fmt: skip
    if not await decisions.add_settlement(tx, row):
        raise SettledBefore(f"settlement {settlement_id} was booked before")


async def _post(tx: Transaction, exchange: Exchange, accounts: dict[str, int], side: str, job_id: JobId) -> None:
    """Write the legs between pool and clearing account; the allocation's own is in its book."""
    some = legs(exchange, "home" if side == "home" else "receiver")
    moves = []
    for leg in some:
        if leg.source == "allocation":
            continue
        clearing = await store.account_of(tx, exchange.clearing, "clearing", leg.resource)
        known = {**accounts, "clearing": clearing}
        moves.append(Move("transfer", known[leg.source], known[leg.target], leg.resource, leg.amount, job_id))
    await store.post_moves(tx, moves, clock.now())
