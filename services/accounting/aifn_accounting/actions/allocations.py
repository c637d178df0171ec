"""What becomes of an allocation: extended, topped up, cut by its policy, expired at its end."""

from datetime import datetime
from typing import Literal, cast

from aifn_common import clock, event_log
from aifn_common.database import Transaction
from aifn_common.errors import Invalid
from aifn_common.outbox import announce
from aifn_events.shares import AllocationChanged
from aifn_events.vocabulary import AllocationId, ProjectId, Subject

from aifn_accounting.actions import pools
from aifn_accounting.actions.budget import post
from aifn_accounting.actions.trail import record
from aifn_accounting.domain import policies
from aifn_accounting.domain.ledger import (
    LARGEST_AMOUNT,
    POOL_ROLES,
    AbsurdAmount,
    Allocation,
    Book,
    Pool,
    ProjectClosed,
)
from aifn_accounting.domain.pools import Asked, PoolKind
from aifn_accounting.policy_data import extension_rule, use_or_lose_policies
from aifn_accounting.store import allocations as store
from aifn_accounting.store import ledger
from aifn_accounting.store import people as people_store
from aifn_accounting.store import pools as pool_store
from aifn_accounting.store.allocations import Terms

What = Literal["extended", "topped_up", "cut", "expired", "restored"]
SYSTEM = "urn:aifn:accounting"
CONTRACT_MONTHS = 3
"""By how much a principal investigator's contract outlives an allocation. Source: EuroHPC calls, secondary."""


async def top_up(tx: Transaction, allocation_id: AllocationId, amount: int, *, by: Subject, reason: str) -> None:
    """Grant an allocation more, out of the pool it came from; an overrun is paid first.

    Raises: NotFound, ProjectClosed, NoExtension, ExtensionTooLarge, AbsurdAmount, and what `pools.draw` raises.
    """
    allocation, terms = await _lock(tx, allocation_id)
    if terms.project_closed:
        raise ProjectClosed(terms.project_id)
    if terms.granted + amount > LARGEST_AMOUNT:
        raise AbsurdAmount(amount, limit=LARGEST_AMOUNT - terms.granted, what="a top-up")
    policies.check_growth(
        terms.id, _rule(terms), _policy(terms), first=terms.first_granted, granted=terms.given, more=amount
    )
    drawn = await pools.draw(tx, await _asked(tx, terms, amount), share=_share(terms), pool_id=terms.pool_id)
    book = Book({allocation.number: allocation.balance})
    book.grant(allocation.number, amount, _share(terms))
    await post(tx, [_from(allocation, terms, drawn.account)], book, clock.now())
    await _changed(tx, terms, "topped_up", by=by, reason=reason)


async def extend(tx: Transaction, allocation_id: AllocationId, ends_at: datetime, *, by: Subject, reason: str) -> None:
    """Let an allocation end later. Raises: NotFound, Invalid, ProjectClosed, NoExtension, ExtendedBefore,
    ExtensionTooLong, ContractTooShort.
    """
    _, terms = await _lock(tx, allocation_id)
    if terms.project_closed:
        raise ProjectClosed(terms.project_id)
    if ends_at <= terms.ends_at:
        raise Invalid(f"{terms.id} ends at {terms.ends_at.isoformat()}, and this is not later")
    policies.check_extension(
        terms.id,
        _rule(terms),
        _policy(terms),
        extended=terms.extensions,
        first_ends_at=terms.first_ends_at,
        ends_at=ends_at,
    )
    await check_contracts(tx, terms.project_id, ends_at)
    await _changed(tx, terms, "extended", by=by, reason=reason, ends_at=ends_at)


async def check_contracts(tx: Transaction, project_id: ProjectId, ends_at: datetime) -> None:
    """Whether somebody who leads a project stays long enough, as far as is known. Raises ContractTooShort."""
    leaders = await people_store.leaders(tx, project_id)
    needed = policies.contract_needed(ends_at, CONTRACT_MONTHS)
    if leaders and all(one.contract_ends_on is not None and one.contract_ends_on < needed for one in leaders):
        longest = max(leaders, key=lambda one: (one.contract_ends_on is None, one.contract_ends_on))
        policies.check_contract(longest.subject, longest.contract_ends_on, ends_at, CONTRACT_MONTHS)


# By the clock


async def expire(tx: Transaction, number: int, *, ended_before: datetime) -> None:
    """Let what is left of an allocation that ended expire; give back of it what usage heard of late has overrun."""
    allocation, terms = await _lock_number(tx, number)
    if terms.ends_at > ended_before:
        return
    balance = allocation.balance
    book = Book({number: balance})
    account = await pool_store.account_of(tx, allocation.id, "expired", allocation.resource)
    with_expired = allocation._replace(accounts={**allocation.accounts, "expired": account})
    if balance.available:
        book.expire(number, balance.available, "expired")
        await post(tx, [with_expired], book, clock.now())
        await _changed(tx, terms, "expired", by=SYSTEM, reason="it has ended", expired=balance.available)
        await _keep(tx, "expire", terms, ended_before=ended_before.isoformat())
    elif back := min(balance.overrun, terms.expired):
        book.restore(number, back)
        await post(tx, [with_expired], book, clock.now())
        await _changed(tx, terms, "restored", by=SYSTEM, reason="usage was heard of after the end", expired=-back)
        await _keep(tx, "expire", terms, ended_before=ended_before.isoformat())


async def apply_policy(tx: Transaction, number: int) -> None:
    """Take the steps of an allocation's use-or-lose policy that are due; each takes what is left at most."""
    allocation, terms = await _lock_number(tx, number)
    policy = _policy(terms)
    if policy is None:
        return
    now = clock.now()
    used = await store.used_by_month(tx, number, policies.month_starts(terms.starts_at, terms.first_ends_at))
    due = policies.due_cuts(
        policy,
        starts_at=terms.starts_at,
        ends_at=terms.first_ends_at,
        granted=terms.given,
        used_by_month=used,
        now=now,
        done=await store.steps_taken(tx, number),
    )
    for cut in due:
        allocation, terms = await _lock_number(tx, number)
        amount = min(cut.amount, allocation.balance.available)
        await store.add_step(tx, number, cut.step, amount, now)
        if amount:
            await _cut(tx, allocation, terms, policy, amount, step=cut.step)
    if due:
        await _keep(tx, "apply-policy", terms)


async def _cut(
    tx: Transaction, allocation: Allocation, terms: Terms, policy: policies.UseOrLose, amount: int, *, step: str
) -> None:
    book = Book({allocation.number: allocation.balance})
    reason = f"{policy.id}, {step}: {'; '.join(policy.source)}"
    if policy.returns_to_pool:
        account = await pools.return_account(
            tx, await _asked(tx, terms, amount), share=_share(terms), pool_id=terms.pool_id
        )
        book.expire(allocation.number, amount, POOL_ROLES[_share(terms)])
        await post(tx, [_from(allocation, terms, account)], book, clock.now())
        await _changed(tx, terms, "cut", by=SYSTEM, reason=reason, returned=amount)
        return
    account = await pool_store.account_of(tx, allocation.id, "expired", allocation.resource)
    book.expire(allocation.number, amount, "expired")
    with_expired = allocation._replace(accounts={**allocation.accounts, "expired": account})
    await post(tx, [with_expired], book, clock.now())
    await _changed(tx, terms, "cut", by=SYSTEM, reason=reason, expired=amount)


# Common to all


async def _keep(tx: Transaction, name: str, terms: Terms, **words: str) -> None:
    """Put a step that the clock brought about into the event log, by the allocation's name: numbers may differ."""
    await event_log.keep_order(tx, event_log.Order(name, {"allocation": terms.id, **words}))


async def _lock(tx: Transaction, allocation_id: AllocationId) -> tuple[Allocation, Terms]:
    return await _lock_number(tx, await store.number_of(tx, allocation_id))


async def _lock_number(tx: Transaction, number: int) -> tuple[Allocation, Terms]:
    (allocation,) = await ledger.lock_allocations(tx, also=[number])
    return allocation, await store.terms_of(tx, number)


async def _asked(tx: Transaction, terms: Terms, amount: int) -> Asked:
    kind = cast(PoolKind, terms.pool) if terms.pool_id is None else (await pool_store.find_pool(tx, terms.pool_id)).kind
    return Asked(
        terms.resource,
        kind,
        amount,
        terms.starts_at,
        terms.ends_at,
        mode=terms.mode,
        policy_version=terms.policy_version,
        earmark=terms.earmark,
    )


def _share(terms: Terms) -> Pool:
    return cast(Pool, terms.pool)


def _from(allocation: Allocation, terms: Terms, account: int) -> Allocation:
    return allocation._replace(accounts={**allocation.accounts, POOL_ROLES[_share(terms)]: account})


def _rule(terms: Terms) -> policies.ExtensionRule | None:
    return extension_rule(terms.mode) if terms.award_id is not None else None


def _policy(terms: Terms) -> policies.UseOrLose | None:
    return None if terms.use_or_lose is None else use_or_lose_policies()[terms.use_or_lose]


async def _changed(
    tx: Transaction,
    before: Terms,
    what: What,
    *,
    by: str,
    reason: str,
    ends_at: datetime | None = None,
    expired: int = 0,
    returned: int = 0,
) -> None:
    await store.change(
        tx,
        before.number,
        ends_at=ends_at or before.ends_at,
        extensions=before.extensions + (what == "extended"),
        expired=expired,
        returned=returned,
    )
    after = await store.terms_of(tx, before.number)
    await record(
        tx, actor=by, action=what, thing="allocation", thing_id=before.id, project_id=before.project_id,
        factory_id=before.factory_id, reason=reason, before=before, after=after,
    )  # fmt: skip
    await announce(
        tx,
        AllocationChanged(
            allocation_id=after.id,
            revision=after.revision,
            project_id=after.project_id,
            resource=after.resource,
            what=what,
            granted=after.granted,
            starts_at=after.starts_at,
            ends_at=after.ends_at,
        ),
    )
