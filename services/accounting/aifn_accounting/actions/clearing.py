"""Months between two factories: their statement, and the transfers that bring the clearing account to zero."""

from datetime import date

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Refusal
from aifn_events.vocabulary import FactoryId, Subject

from aifn_accounting.actions.trail import record
from aifn_accounting.domain.exchange import WrongAgreement, clearing_of
from aifn_accounting.domain.periods import bounds, name_of
from aifn_accounting.store import clearing as store
from aifn_accounting.store import pools
from aifn_accounting.store.pools import Move


class MonthNotOver(Refusal):
    """What a month comes to is not known before it has ended."""

    code = "month_not_over"


class NothingToSettle(Refusal):
    """Nothing is left of this month: nothing was exchanged, or it was settled before, or with a later month."""

    code = "nothing_to_settle"


def account_between(own: FactoryId, other: FactoryId) -> str:
    """The clearing account with another factory. Raises WrongAgreement."""
    if own == other:
        raise WrongAgreement(f"{own} has no clearing account with itself")
    return clearing_of(own, other)


async def statement(tx: Transaction, own: FactoryId, other: FactoryId, month: date) -> list[store.Line]:
    """What a month between two factories comes to. Raises WrongAgreement."""
    begins, ends = bounds(month)
    return await store.lines(tx, account_between(own, other), month, begins=begins, ends=ends)


async def settle_month(
    tx: Transaction, own: FactoryId, other: FactoryId, month: date, *, by: Subject, reason: str
) -> list[store.Line]:
    """Bring what stood at the end of a month to zero, resource by resource; returns the statement as it is then.

    What was owed or due moves to an account of settled amounts between the two, by one transfer for each resource: how
    the factories make it good stands in the reason. Raises: WrongAgreement, MonthNotOver, NothingToSettle.
    """
    account = account_between(own, other)
    now = clock.now()
    _, ends = bounds(month)
    if now < ends:
        raise MonthNotOver(f"{name_of(month)} ends at {ends.isoformat()}")
    await store.lock(tx, account)
    open_lines = [line for line in await statement(tx, own, other, month) if line.left]
    if not open_lines:
        raise NothingToSettle(f"nothing is left to settle with {other} of {name_of(month)}")
    moves = []
    for line in open_lines:
        clearing, settled = [
            await pools.account_of(tx, account, role, line.resource) for role in ("clearing", "settled")
        ]
        source, target = (clearing, settled) if line.left > 0 else (settled, clearing)
        moves.append(Move("transfer", source, target, line.resource, abs(line.left)))
        await store.add_month(tx, account, month, line, reason=reason, by=by, at=now)
    await pools.post_moves(tx, moves, now)
    after = {"month": name_of(month), "settled": {line.resource: line.left for line in open_lines}}
    await record(
        tx, actor=by, action="settle_month", thing="clearing", thing_id=account, factory_id=own, reason=reason,
        after=after,
    )  # fmt: skip
    return await statement(tx, own, other, month)
