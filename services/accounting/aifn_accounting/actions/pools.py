"""Pools and caps: made, funded, changed; and drawn on by grants, so that nothing is given twice."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Invalid, Refusal
from aifn_common.outbox import announce
from aifn_events.shares import ShareHeadroomChanged
from aifn_events.vocabulary import ResourceId, Subject

from aifn_accounting.actions.trail import record
from aifn_accounting.domain import pools as domain
from aifn_accounting.domain.ledger import POOL_ROLES
from aifn_accounting.domain.ledger import Pool as Share
from aifn_accounting.domain.pools import Asked, Base, Cap, CapExceeded, Pool, PoolExhausted, WrongPool
from aifn_accounting.policy_data import CapRule, cap_rules, use_or_lose_policies
from aifn_accounting.store import people as people_store
from aifn_accounting.store import pools as store
from aifn_accounting.store.pools import Move


class DuplicatePool(Refusal):
    """A pool of this id exists."""

    code = "duplicate_pool"


class DuplicateCap(Refusal):
    """A cap of this id exists, or the group has one there from that moment on."""

    code = "duplicate_cap"


class UnknownPolicy(Invalid):
    """No use-or-lose policy of that name is in the data."""

    code = "unknown_policy"


class UnconfirmedCap(Invalid):
    """No source gives this ceiling for this version, so whoever puts it must name one."""

    code = "unconfirmed_cap"


class NoBase(Invalid):
    """The base of a ceiling is not known here, and was not stated."""

    code = "no_base"


@dataclass(frozen=True)
class Drawn:
    """What a grant got: the account it comes out of, and the pool, if the resource has any."""

    account: int
    pool: Pool | None


# Giving


async def draw(tx: Transaction, asked: Asked, *, share: Share, pool_id: str | None = None) -> Drawn:
    """Take an amount out of its pool and count it under its caps; the caller posts it to an allocation.

    A resource without pools of that kind is not rationed. Caps hold either way. Whoever comes second waits for the
    first, then finds less. Raises: NotFound, WrongPool, PoolNotOpen, WrongEarmark, OverPoolLimit, PoolExhausted,
    CapExceeded.
    """
    await store.hold_caps(tx, asked.resource, asked.kind)
    if pool_id is None:
        pool = domain.choose_pool(await store.pools_of(tx, asked.resource, asked.kind), asked)
    else:
        pool = await store.find_pool(tx, pool_id)
    if pool is not None:
        domain.check_pool(pool, asked)
    caps = domain.caps_over(await store.caps_of(tx, asked.resource, asked.kind), asked)
    if pool is not None:
        pool = await _take(tx, pool, asked.amount, yielding=any(cap.yields for cap in caps))
    for cap in caps:
        taken = await store.take_cap(tx, cap.id, asked.amount)
        if taken is None:
            now = await store.find_cap(tx, cap.id)
            raise CapExceeded(cap.id, mode_group=cap.mode_group, asked=asked.amount, headroom=now.headroom)
        await announce(tx, _headroom_of_cap(taken))
    source = await _source(tx, pool, share, asked.resource)
    group = domain.group_of(caps)
    if group is None:
        return Drawn(source, pool)
    await store.post_moves(tx, [Move("sub_grant", source, group.account, asked.resource, asked.amount)], clock.now())
    return Drawn(group.account, pool)


async def return_account(tx: Transaction, asked: Asked, *, share: Share, pool_id: str | None) -> int:
    """Take an amount back into its pool and count it no more; returns the account that the caller posts it to."""
    await store.hold_caps(tx, asked.resource, asked.kind)
    pool = None
    if pool_id is not None:
        pool = await store.give_back(tx, pool_id, asked.amount)
        await announce(tx, _headroom_of_pool(pool))
    caps = domain.caps_over(await store.caps_of(tx, asked.resource, asked.kind), asked)
    for cap in caps:
        await announce(tx, _headroom_of_cap(await store.give_back_cap(tx, cap.id, asked.amount)))
    target = await _source(tx, pool, share, asked.resource)
    group = domain.group_of(caps)
    if group is None:
        return target
    await store.post_moves(tx, [Move("transfer", group.account, target, asked.resource, asked.amount)], clock.now())
    return group.account


async def _take(tx: Transaction, pool: Pool, amount: int, *, yielding: bool) -> Pool:
    taken = await store.take(tx, pool.id, amount, yielding=yielding)
    if taken is None:
        now = await store.find_pool(tx, pool.id)
        raise PoolExhausted(pool.id, asked=amount, available=now.room(yielding=yielding))
    await announce(tx, _headroom_of_pool(taken))
    return taken


async def _source(tx: Transaction, pool: Pool | None, share: Share, resource: ResourceId) -> int:
    if pool is not None:
        return pool.account
    return await store.account_of(tx, f"pool:{share}", POOL_ROLES[share], resource)


# Pools


async def create_pool(tx: Transaction, pool: Pool, *, reason: str) -> Pool:
    """Make a pool with nothing in it; its `account` is opened here.

    Raises: DuplicatePool, NotFound, WrongPool, UnknownPolicy, Invalid.
    """
    if pool.starts_at >= pool.ends_at:
        raise Invalid(f"it ends at {pool.ends_at.isoformat()}, which is not after its start")
    _check_policy(pool.use_or_lose)
    if await people_store.find_resource(tx, pool.resource) is None:
        raise WrongPool(f"no machine here has {pool.resource}, and it is not registered")
    if pool.parent is not None:
        above = await store.find_pool(tx, pool.parent)
        if (above.resource, above.kind) != (pool.resource, pool.kind):
            raise WrongPool(f"pool {above.id} is a {above.kind} pool of {above.resource}")
        if pool.starts_at < above.starts_at or pool.ends_at > above.ends_at:
            raise WrongPool(f"pool {above.id} is open from {above.starts_at} until {above.ends_at} only")
    role = domain.POOL_KIND_ROLES[pool.kind]
    made = replace(pool, account=await store.account_of(tx, f"share:{pool.id}", role, pool.resource))
    if await store.is_share(tx, pool.id) or not await store.add_pool(tx, made):
        raise DuplicatePool(f"a pool or a cap {pool.id} exists")
    await announce(tx, _headroom_of_pool(made))
    await _record_pool(tx, "create_pool", made.created_by, reason, None, made)
    return made


async def change_pool(
    tx: Transaction,
    before: Pool,
    *,
    title: str,
    reserved: int,
    use_or_lose: str | None,
    most_per_grant: int | None,
    longest_days: int | None,
    by: Subject,
    reason: str,
) -> Pool:
    """Decide on a pool beside its amounts; the row must be locked. Raises UnknownPolicy."""
    _check_policy(use_or_lose)
    after = await store.change_pool(
        tx,
        before.id,
        title=title,
        reserved=reserved,
        use_or_lose=use_or_lose,
        most_per_grant=most_per_grant,
        longest_days=longest_days,
    )
    await _record_pool(tx, "change_pool", by, reason, before, after)
    return after


def check_funding(pool: Pool, giver: Pool | None, amount: int) -> None:
    """Whether a funding makes sense at all, out of another pool or from its funder. Raises: WrongPool, AbsurdAmount."""
    domain.check_amount(pool.funded + amount)
    if giver is not None and (giver.id == pool.id or giver.resource != pool.resource):
        raise WrongPool(f"pool {giver.id} cannot fund {pool.id}")


async def fund_pool(
    tx: Transaction, pool_id: str, amount: int, *, source: str | None, by: Subject, reason: str
) -> Pool:
    """Put an amount into a pool: from its funder, or out of another pool of the same resource.

    Out of the pool above it is a sub-grant, out of any other a transfer. Raises: NotFound, WrongPool, PoolExhausted,
    AbsurdAmount.
    """
    locked = await store.lock_pools(tx, [pool_id] if source is None else [pool_id, source])
    before, giver = locked[pool_id], None if source is None else locked[source]
    check_funding(before, giver, amount)
    if giver is None:
        account = await store.account_of(tx, f"funder:{before.funder}", "funder", before.resource)
    else:
        account = (await _take(tx, giver, amount, yielding=False)).account
    after = await store.fund(tx, pool_id, amount)
    kind: store.MoveKind = "sub_grant" if source in (None, before.parent) else "transfer"
    await store.post_moves(tx, [Move(kind, account, after.account, after.resource, amount)], clock.now())
    await _after_funding(tx, "fund_pool", by, reason, before, after)
    return after


async def withdraw_from_pool(tx: Transaction, pool_id: str, amount: int, *, by: Subject, reason: str) -> Pool:
    """Take back what a pool has not passed on: to the pool above it if it came from there, else to its funder.

    Raises: NotFound, PoolExhausted.
    """
    seen = await store.find_pool(tx, pool_id)
    locked = await store.lock_pools(tx, [pool_id] if seen.parent is None else [pool_id, seen.parent])
    before = locked[pool_id]
    after = await store.withdraw(tx, pool_id, amount)
    if after is None:
        raise PoolExhausted(pool_id, asked=amount, available=before.available)
    if before.parent is None or locked[before.parent].passed_on < amount:
        account = await store.account_of(tx, f"funder:{before.funder}", "funder", before.resource)
    else:
        above = await store.give_back(tx, before.parent, amount)
        await announce(tx, _headroom_of_pool(above))
        account = above.account
    await store.post_moves(tx, [Move("transfer", before.account, account, before.resource, amount)], clock.now())
    await _after_funding(tx, "withdraw_from_pool", by, reason, before, after)
    return after


async def _after_funding(tx: Transaction, action: str, by: Subject, reason: str, before: Pool, after: Pool) -> None:
    await announce(tx, _headroom_of_pool(after))
    for cap in await store.caps_of(tx, after.resource, after.kind, lock=True):
        if cap.base == "share":
            amount = await store.funded(tx, cap.resource, cap.pool_kind, cap.starts_at, cap.ends_at)
            if amount != cap.base_amount:
                await _put_ceiling(tx, cap, pct=cap.pct, base="share", base_amount=amount, yields=cap.yields)
    await _record_pool(tx, action, by, reason, before, after)


def _check_policy(policy: str | None) -> None:
    if policy is not None and policy not in use_or_lose_policies():
        raise UnknownPolicy(f"there is no policy {policy}: {', '.join(sorted(use_or_lose_policies()))} are there")


# Caps


def published(policy_version: str, mode_group: str) -> CapRule | None:
    """The ceiling that a source gives for a group under a policy version."""
    found = (rule for rule in cap_rules() if (rule.policy_version, rule.mode_group) == (policy_version, mode_group))
    return next(found, None)


async def create_cap(
    tx: Transaction,
    cap: Cap,
    *,
    pct: int | None,
    modes: Sequence[str] | None,
    source: str | None,
    yields: bool | None,
    reason: str,
) -> Cap:
    """Put a ceiling on a group of modes; what is left out is taken from the published rule.

    Grants made before count under it. Raises: DuplicateCap, UnconfirmedCap, NoBase, Invalid.
    """
    if cap.starts_at >= cap.ends_at:
        raise Invalid(f"it ends at {cap.ends_at.isoformat()}, which is not after its start")
    rule = published(cap.policy_version, cap.mode_group)
    if source is None and (rule is None or rule.carried_over):
        raise UnconfirmedCap(f"no source gives {cap.mode_group} a ceiling under {cap.policy_version}: name yours")
    if rule is None and (pct is None or not modes):
        raise UnconfirmedCap(f"{cap.mode_group} of {cap.policy_version} is not published: give `pct` and `modes`")
    if rule is not None:
        pct = rule.pct if pct is None else pct
        modes = modes or rule.modes
        source = source or "; ".join(rule.source)
        yields = rule.yields if yields is None else yields
    await store.hold_caps(tx, cap.resource, cap.pool_kind, to_add=True)
    made = replace(cap, pct=pct or 0, modes=tuple(modes or ()), source=source or "", yields=bool(yields))
    base_amount = await _base_amount(tx, made, made.base, made.base_amount)
    made = replace(
        made,
        base_amount=base_amount,
        ceiling=domain.ceiling(made.pct, base_amount),
        used=await store.granted(
            tx, made.resource, made.pool_kind, made.policy_version, made.modes, made.starts_at, made.ends_at
        ),
        account=await store.account_of(tx, f"cap:{made.id}", "mode_group", made.resource),
    )
    if await store.is_share(tx, made.id) or not await store.add_cap(tx, made):
        raise DuplicateCap(f"cap {made.id} exists, or {made.mode_group} has one there from that moment on")
    await announce(tx, _headroom_of_cap(made))
    await _record_cap(tx, "create_cap", made.created_by, reason, None, made)
    return made


async def change_cap(
    tx: Transaction,
    before: Cap,
    *,
    pct: int,
    base: Base,
    base_amount: int | None,
    yields: bool,
    source: str,
    by: Subject,
    reason: str,
) -> Cap:
    """Give a cap another ceiling; the row must be locked. Below what was given, it leaves nothing. Raises NoBase."""
    amount = await _base_amount(tx, before, base, base_amount or 0)
    after = await _put_ceiling(
        tx, replace(before, source=source), pct=pct, base=base, base_amount=amount, yields=yields
    )
    await _record_cap(tx, "change_cap", by, reason, before, after)
    return after


async def _put_ceiling(tx: Transaction, cap: Cap, *, pct: int, base: Base, base_amount: int, yields: bool) -> Cap:
    after = await store.change_cap(
        tx,
        cap.id,
        pct=pct,
        base=base,
        base_amount=base_amount,
        ceiling=domain.ceiling(pct, base_amount),
        yields=yields,
        source=cap.source,
    )
    await announce(tx, _headroom_of_cap(after))
    return after


async def _base_amount(tx: Transaction, cap: Cap, base: Base, stated: int) -> int:
    if base == "share":
        return await store.funded(tx, cap.resource, cap.pool_kind, cap.starts_at, cap.ends_at)
    if base == "stated":
        if not stated:
            raise NoBase("a stated base needs `base_amount`")
        return stated
    known = await people_store.find_resource(tx, cap.resource)
    if known is None or known.units_per_node is None or known.nodes is None:
        raise NoBase(f"the machine of {cap.resource} has not said how many nodes it has: state `base_amount`")
    return domain.machine_time(
        units_per_node=known.units_per_node, nodes=known.nodes, starts_at=cap.starts_at, ends_at=cap.ends_at
    )


# Saying so


def _headroom_of_pool(pool: Pool) -> ShareHeadroomChanged:
    return ShareHeadroomChanged(
        share_id=pool.id,
        revision=pool.revision,
        kind="pool",
        factory_id=pool.factory_id,
        pool=pool.kind,
        resource=pool.resource,
        limit=pool.funded,
        used=pool.passed_on,
        headroom=pool.available,
        starts_at=pool.starts_at,
        ends_at=pool.ends_at,
    )


def _headroom_of_cap(cap: Cap) -> ShareHeadroomChanged:
    return ShareHeadroomChanged(
        share_id=cap.id,
        revision=cap.revision,
        kind="cap",
        factory_id=cap.factory_id,
        pool=cap.pool_kind,
        resource=cap.resource,
        mode_group=cap.mode_group,
        policy_version=cap.policy_version,
        modes=list(cap.modes),
        limit=cap.ceiling,
        used=cap.used,
        headroom=cap.headroom,
        starts_at=cap.starts_at,
        ends_at=cap.ends_at,
    )


async def _record_pool(tx: Transaction, action: str, by: str, reason: str, before: Pool | None, after: Pool) -> None:
    await record(
        tx, actor=by, action=action, thing="pool", thing_id=after.id, factory_id=after.factory_id, reason=reason,
        before=before, after=after,
    )  # fmt: skip


async def _record_cap(tx: Transaction, action: str, by: str, reason: str, before: Cap | None, after: Cap) -> None:
    await record(
        tx, actor=by, action=action, thing="cap", thing_id=after.id, factory_id=after.factory_id, reason=reason,
        before=before, after=after,
    )  # fmt: skip
