"""Where a grant comes from: pools that cannot be passed on twice, and ceilings for groups of access modes. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from aifn_common.errors import Invalid, Refusal
from aifn_events.vocabulary import FactoryId, ProjectId, ResourceId

from aifn_accounting.domain.ledger import LARGEST_AMOUNT, AbsurdAmount, Role

PoolKind = Literal["union", "national", "fund"]
Base = Literal["share", "machine", "stated"]
POOL_KIND_ROLES: dict[PoolKind, Role] = {"union": "union_pool", "national": "national_pool", "fund": "fund"}
_AWARD_PROJECT = re.compile(r"aif-([a-z0-9-]+-)?\d{4}-\d{4,}")


class Shortage(Refusal):
    """There is no room for a grant now; there may be later, so an award waits instead of being given up."""

    share: str = ""


class PoolExhausted(Shortage):
    """More was asked of a pool than it has left."""

    code = "pool_exhausted"

    def __init__(self, pool_id: str, *, asked: int, available: int) -> None:
        super().__init__(f"pool {pool_id} was asked for {asked}, {available} left")
        self.share = pool_id
        self.asked = asked
        self.available = available


class CapExceeded(Shortage):
    """More was asked for a group of modes than its ceiling leaves."""

    code = "cap_exceeded"

    def __init__(self, cap_id: str, *, mode_group: str, asked: int, headroom: int) -> None:
        super().__init__(f"cap {cap_id} of {mode_group} was asked for {asked}, {headroom} left below it")
        self.share = cap_id
        self.mode_group = mode_group
        self.asked = asked
        self.headroom = headroom


class PoolNotOpen(Shortage):
    """There are pools of this resource, and none of them at that time or for that purpose."""

    code = "pool_not_open"

    def __init__(self, kind: PoolKind, resource: ResourceId, at: datetime, earmark: str | None) -> None:
        purpose = f" for {earmark}" if earmark else ""
        super().__init__(f"no {kind} pool of {resource}{purpose} is open at {at.isoformat()}")
        self.share = f"{kind} of {resource}"
        self.resource = resource


class WrongEarmark(Refusal):
    """A pool is meant for something else."""

    code = "wrong_earmark"

    def __init__(self, pool_id: str, earmark: str | None) -> None:
        super().__init__(f"pool {pool_id} is " + (f"for {earmark} only: say so" if earmark else "not earmarked"))
        self.pool_id = pool_id
        self.earmark = earmark or ""


class OverPoolLimit(Shortage):
    """One grant would take more of a pool, or for longer, than its holder lets anybody."""

    code = "over_pool_limit"

    def __init__(self, pool_id: str, *, what: str, asked: int, limit: int) -> None:
        super().__init__(f"pool {pool_id} gives at most {limit} {what} at once; {asked} were asked for")
        self.share = pool_id
        self.asked = asked
        self.limit = limit


class WrongPool(Invalid):
    """The pool that was named has another resource, or is of another kind."""

    code = "wrong_pool"


class ReservedProjectId(Refusal):
    """Names like aif-2026-0117 are given by awards only."""

    code = "reserved_project_id"

    def __init__(self, project_id: ProjectId) -> None:
        super().__init__(f"{project_id} is a name that only an award gives: choose another, or leave it out")
        self.project_id = project_id


@dataclass(frozen=True)
class Pool:
    """A share of one resource for some time; what came in, and what was passed on and has not come back.

    `most_per_grant` in the resource's unit; `reserved` is demand of other modes, which yielding groups leave alone.
    """

    id: str
    kind: PoolKind
    title: str
    parent: str | None
    funder: str
    factory_id: FactoryId
    resource: ResourceId
    starts_at: datetime
    ends_at: datetime
    funded: int
    passed_on: int
    reserved: int
    earmark: str | None
    use_or_lose: str | None
    most_per_grant: int | None
    longest_days: int | None
    account: int
    revision: int
    created_by: str
    created_at: datetime

    @property
    def available(self) -> int:
        """What may still be passed on."""
        return self.funded - self.passed_on

    def room(self, *, yielding: bool) -> int:
        """What may still be granted to a mode that yields to the demand of others, or to one that does not."""
        return max(self.available - (self.reserved if yielding else 0), 0)

    def open_at(self, at: datetime) -> bool:
        """Whether grants that start at a moment come out of it."""
        return self.starts_at <= at < self.ends_at


@dataclass(frozen=True)
class Cap:
    """A ceiling for a group of modes under one policy version: `pct` of `base_amount`, which `base` explains."""

    id: str
    factory_id: FactoryId
    policy_version: str
    mode_group: str
    modes: Sequence[str]
    pool_kind: PoolKind
    resource: ResourceId
    starts_at: datetime
    ends_at: datetime
    pct: int
    base: Base
    base_amount: int
    ceiling: int
    used: int
    yields: bool
    source: str
    account: int
    revision: int
    created_by: str
    created_at: datetime

    @property
    def headroom(self) -> int:
        """What may still be granted under it; a ceiling that was lowered leaves nothing."""
        return max(self.ceiling - self.used, 0)


@dataclass(frozen=True)
class Asked:
    """What a grant needs to know to find its pool and its caps."""

    resource: ResourceId
    kind: PoolKind
    amount: int
    starts_at: datetime
    ends_at: datetime
    mode: str | None = None
    policy_version: str | None = None
    earmark: str | None = None


def is_award_project(project_id: ProjectId) -> bool:
    """Whether a name is one of those that awards give.

    >>> [is_award_project(name) for name in ("aif-2026-0117", "aif-ju-2026-0117", "aif-weather")]
    [True, True, False]
    """
    return _AWARD_PROJECT.fullmatch(project_id) is not None


def choose_pool(pools: Iterable[Pool], asked: Asked) -> Pool | None:
    """The pool a grant comes out of; None if this resource has no pools of that kind, so that it is not rationed.

    Of the pools open when the grant starts, with the earmark that was said, the first to end that has enough; if none
    has, the one with most left. Raises: PoolNotOpen.
    """
    some = [pool for pool in pools if pool.resource == asked.resource and pool.kind == asked.kind]
    if not some:
        return None
    fitting = [pool for pool in some if pool.open_at(asked.starts_at) and pool.earmark == asked.earmark]
    if not fitting:
        raise PoolNotOpen(asked.kind, asked.resource, asked.starts_at, asked.earmark)
    return min(
        fitting,
        key=lambda pool: (pool.available < asked.amount, -min(pool.available, asked.amount), pool.ends_at, pool.id),
    )


def check_pool(pool: Pool, asked: Asked) -> None:
    """Whether a grant is what a pool is for. Raises: WrongPool, PoolNotOpen, WrongEarmark, OverPoolLimit."""
    if (pool.resource, pool.kind) != (asked.resource, asked.kind):
        raise WrongPool(f"pool {pool.id} is a {pool.kind} pool of {pool.resource}")
    if not pool.open_at(asked.starts_at):
        raise PoolNotOpen(asked.kind, asked.resource, asked.starts_at, asked.earmark)
    if pool.earmark != asked.earmark:
        raise WrongEarmark(pool.id, pool.earmark)
    if pool.most_per_grant is not None and asked.amount > pool.most_per_grant:
        raise OverPoolLimit(pool.id, what="units", asked=asked.amount, limit=pool.most_per_grant)
    days = (asked.ends_at - asked.starts_at).days
    if pool.longest_days is not None and days > pool.longest_days:
        raise OverPoolLimit(pool.id, what="days", asked=days, limit=pool.longest_days)


def caps_over(caps: Iterable[Cap], asked: Asked) -> list[Cap]:
    """The ceilings a grant counts under, in the order in which their rows are locked. None of another policy version.

    A mode may belong to a group inside a group, as Playground does: then both count.
    """
    found = [
        cap
        for cap in caps
        if (cap.resource, cap.pool_kind, cap.policy_version) == (asked.resource, asked.kind, asked.policy_version)
        and asked.mode in cap.modes
        and cap.starts_at <= asked.starts_at < cap.ends_at
    ]
    return sorted(found, key=lambda cap: cap.id)


def group_of(caps: Sequence[Cap]) -> Cap | None:
    """The group on whose account a grant passes through: the one with fewest modes."""
    return min(caps, key=lambda cap: (len(cap.modes), cap.id), default=None)


def ceiling(pct: int, base_amount: int) -> int:
    """A percentage as whole units, rounded down: a ceiling is not passed by rounding.

    >>> ceiling(10, 1_005)
    100
    """
    return base_amount * pct // 100


def machine_time(*, units_per_node: int, nodes: int, starts_at: datetime, ends_at: datetime) -> int:
    """All that a partition gives in some time, in slice-seconds. Raises AbsurdAmount."""
    amount = units_per_node * nodes * int((ends_at - starts_at).total_seconds())
    if amount > LARGEST_AMOUNT:
        raise AbsurdAmount(amount, limit=LARGEST_AMOUNT, what="the time of a machine")
    return amount


def check_amount(amount: int) -> None:
    """Refuse what no pool can hold. Raises AbsurdAmount."""
    if amount > LARGEST_AMOUNT:
        raise AbsurdAmount(amount, limit=LARGEST_AMOUNT, what="a pool")


def headroom(pool: Pool | None, caps: Sequence[Cap]) -> int | None:
    """What may be granted now, at most; None if nothing bounds it."""
    bounds = [cap.headroom for cap in caps]
    if pool is not None:
        bounds.append(pool.room(yielding=any(cap.yields for cap in caps)))
    return min(bounds, default=None)
