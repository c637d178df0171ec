"""Pools, caps, the accounts behind them, and the movements between those."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from aifn_common.database import Row, Transaction
from aifn_common.errors import NotFound
from aifn_events.vocabulary import FactoryId, ResourceId

from aifn_accounting.domain.pools import Base, Cap, Pool, PoolKind

_POOL_COLUMNS = """id, kind, title, parent, funder, factory_id, resource, starts_at, ends_at, funded, passed_on,
    reserved, earmark, use_or_lose, most_per_grant, longest_days, account, revision, created_by, created_at"""
_POOL = f"SELECT {_POOL_COLUMNS} FROM pool WHERE id = $1"
_LOCK_POOLS = f"SELECT {_POOL_COLUMNS} FROM pool WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE"
_POOLS_OF = f"SELECT {_POOL_COLUMNS} FROM pool WHERE resource = $1 AND kind = $2 ORDER BY id"
_POOLS = f"""
SELECT {_POOL_COLUMNS} FROM pool
WHERE ($1 OR factory_id = ANY($2::text[])) AND ($3::text IS NULL OR resource = $3) AND ($4::text IS NULL OR kind = $4)
  AND ($5::timestamptz IS NULL OR (starts_at <= $5 AND $5 < ends_at)) AND ($6::text IS NULL OR parent = $6)
  AND ($7::text IS NULL OR id > $7)
ORDER BY id LIMIT $8"""
_ADD_POOL = """
INSERT INTO pool (id, kind, title, parent, funder, factory_id, resource, starts_at, ends_at, earmark, use_or_lose,
    most_per_grant, longest_days, account, created_by, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON CONFLICT (id) DO NOTHING"""
_CHANGE_POOL = f"""
UPDATE pool SET title = $2, reserved = $3, use_or_lose = $4, most_per_grant = $5, longest_days = $6,
    revision = revision + 1 WHERE id = $1 RETURNING {_POOL_COLUMNS}"""
# The condition decides, under the row's lock, however many try at once; the CHECK of the table would stop a mistake.
_TAKE = f"""
UPDATE pool SET passed_on = passed_on + $2, revision = revision + 1
WHERE id = $1 AND funded - passed_on - CASE WHEN $3 THEN reserved ELSE 0 END >= $2 RETURNING {_POOL_COLUMNS}"""
_GIVE_BACK = f"""
UPDATE pool SET passed_on = passed_on - $2, revision = revision + 1
WHERE id = $1 AND passed_on >= $2 RETURNING {_POOL_COLUMNS}"""
_FUND = f"UPDATE pool SET funded = funded + $2, revision = revision + 1 WHERE id = $1 RETURNING {_POOL_COLUMNS}"
_WITHDRAW = f"""
UPDATE pool SET funded = funded - $2, revision = revision + 1
WHERE id = $1 AND funded - passed_on >= $2 RETURNING {_POOL_COLUMNS}"""

_SHARE_KNOWN = "SELECT EXISTS (SELECT FROM pool WHERE id = $1 UNION ALL SELECT FROM share_cap WHERE id = $1)"

_CAP_COLUMNS = """id, factory_id, policy_version, mode_group, modes, pool_kind, resource, starts_at, ends_at, pct, base,
    base_amount, ceiling, used, yields, source, account, revision, created_by, created_at"""
_CAP = f"SELECT {_CAP_COLUMNS} FROM share_cap WHERE id = $1"
_CAPS_OF = f"SELECT {_CAP_COLUMNS} FROM share_cap WHERE resource = $1 AND pool_kind = $2 ORDER BY id"
_CAPS = f"""
SELECT {_CAP_COLUMNS} FROM share_cap
WHERE ($1 OR factory_id = ANY($2::text[])) AND ($3::text IS NULL OR resource = $3)
  AND ($4::text IS NULL OR policy_version = $4) AND ($5::text IS NULL OR $5 = ANY(modes) OR mode_group = $5)
  AND ($6::text IS NULL OR id > $6)
ORDER BY id LIMIT $7"""
_ADD_CAP = """
INSERT INTO share_cap (id, factory_id, policy_version, mode_group, modes, pool_kind, resource, starts_at, ends_at, pct,
    base, base_amount, ceiling, used, yields, source, account, created_by, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19) ON CONFLICT DO NOTHING"""
_CHANGE_CAP = f"""
UPDATE share_cap SET pct = $2, base = $3, base_amount = $4, ceiling = $5, yields = $6, source = $7,
    revision = revision + 1 WHERE id = $1 RETURNING {_CAP_COLUMNS}"""
_TAKE_CAP = f"""
UPDATE share_cap SET used = used + $2, revision = revision + 1
WHERE id = $1 AND used + $2 <= ceiling RETURNING {_CAP_COLUMNS}"""
_GIVE_BACK_CAP = f"""
UPDATE share_cap SET used = used - $2, revision = revision + 1
WHERE id = $1 AND used >= $2 RETURNING {_CAP_COLUMNS}"""
_FUNDED = """
SELECT coalesce(sum(funded), 0)::bigint FROM pool p
WHERE resource = $1 AND kind = $2 AND starts_at < $4 AND $3 < ends_at
  AND NOT EXISTS (SELECT FROM pool above WHERE above.id = p.parent AND above.kind = p.kind)"""
# What was granted before a cap was put counts under it.
_GRANTED = """
SELECT coalesce(sum(a.granted + a.expired - a.corrected), 0)::bigint
FROM allocation a LEFT JOIN pool p ON p.id = a.pool_id
WHERE a.resource = $1 AND coalesce(p.kind, a.pool) = $2 AND a.policy_version = $3 AND a.mode = ANY($4::text[])
  AND a.starts_at >= $5 AND a.starts_at < $6"""

# Who gives holds it shared, who puts a new cap alone: what is given meanwhile would be missing in its sum.
_STEADY = "SELECT pg_advisory_xact_lock_shared(hashtextextended($1, 1))"
_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended($1, 1))"

_ACCOUNT = """
WITH made AS (
    INSERT INTO account (owner, role, resource) VALUES ($1, $2, $3)
    ON CONFLICT (owner, role, resource) DO NOTHING RETURNING id
)
SELECT id FROM made UNION ALL SELECT id FROM account WHERE (owner, role, resource) = ($1, $2, $3) LIMIT 1"""
_MOVE_COLUMNS = ("allocation_number", "kind", "source", "target", "resource", "amount", "job_id", "recorded_at")
_MOVEMENTS = """
SELECT t.id, t.kind, s.owner AS source_owner, s.role AS source, d.owner AS target_owner, d.role AS target, t.amount,
    a.id AS allocation_id, t.recorded_at
FROM (
    SELECT * FROM ledger_transfer WHERE source = $1 AND id > $2
      AND kind IN ('grant', 'sub_grant', 'transfer', 'expiry', 'correction')
    UNION ALL
    SELECT * FROM ledger_transfer WHERE target = $1 AND id > $2
      AND kind IN ('grant', 'sub_grant', 'transfer', 'expiry', 'correction')
) t
JOIN account s ON s.id = t.source
JOIN account d ON d.id = t.target
LEFT JOIN allocation a ON a.number = t.allocation_number
ORDER BY t.id LIMIT $3"""
_CLEARING = """
SELECT a.owner, a.resource, coalesce(sum(p.amount), 0)::bigint AS balance
FROM account a LEFT JOIN posting p ON p.account_id = a.id
WHERE a.role = 'clearing' AND ($1::text IS NULL OR (a.owner, a.resource) > ($1, $2))
GROUP BY a.owner, a.resource ORDER BY a.owner, a.resource LIMIT $3"""

MoveKind = Literal["grant", "sub_grant", "transfer", "expiry", "correction"]
OF_NO_ALLOCATION = 0
"""Where a movement between pools has its allocation's number: it stands on no allocation's statement."""


@dataclass(frozen=True)
class Move:
    """One movement between accounts that are given by their numbers."""

    kind: MoveKind
    source: int
    target: int
    resource: ResourceId
    amount: int
    job_id: str | None = None


@dataclass(frozen=True)
class Movement:
    """A line of a pool's statement."""

    id: int
    kind: str
    source_owner: str
    source: str
    target_owner: str
    target: str
    amount: int
    allocation_id: str | None
    recorded_at: datetime


@dataclass(frozen=True)
class ClearingBalance:
    """What stands between two factories in one resource: below zero it is owed, above zero it is due."""

    owner: str
    resource: ResourceId
    balance: int


async def hold_caps(tx: Transaction, resource: ResourceId, kind: PoolKind, *, to_add: bool = False) -> None:
    """Keep the caps on a resource as many as they are, or be the only one who adds one."""
    await tx.execute(_ALONE if to_add else _STEADY, f"caps {kind} {resource}")


async def account_of(tx: Transaction, owner: str, role: str, resource: ResourceId) -> int:
    """The number of an account, which is opened if it is new."""
    number = await tx.fetchval(_ACCOUNT, owner, role, resource)
    # Somebody else opened it in this moment: it is there for the next statement.
    return int(number if number is not None else await tx.fetchval(_ACCOUNT, owner, role, resource))


async def find_pool(tx: Transaction, pool_id: str) -> Pool:
    """Read a pool. Raises NotFound."""
    row = await tx.fetchrow(_POOL, pool_id)
    if row is None:
        raise NotFound(f"there is no pool {pool_id}")
    return Pool(**row)


async def is_share(tx: Transaction, share_id: str) -> bool:
    """Whether a pool or a cap has this id: events name both in one list."""
    return bool(await tx.fetchval(_SHARE_KNOWN, share_id))


async def lock_pools(tx: Transaction, pool_ids: Iterable[str]) -> dict[str, Pool]:
    """Read pools, their rows held until the end; all who lock several do so in the order of ids. Raises NotFound."""
    wanted = sorted(set(pool_ids))
    found = {row["id"]: Pool(**row) for row in await tx.fetch(_LOCK_POOLS, wanted)}
    for pool_id in wanted:
        if pool_id not in found:
            raise NotFound(f"there is no pool {pool_id}")
    return found


async def pools_of(tx: Transaction, resource: ResourceId, kind: PoolKind) -> list[Pool]:
    """All pools of a resource and kind."""
    return [Pool(**row) for row in await tx.fetch(_POOLS_OF, resource, kind)]


async def list_pools(
    tx: Transaction,
    *,
    everything: bool,
    factories: Iterable[FactoryId],
    resource: ResourceId | None,
    kind: PoolKind | None,
    open_at: datetime | None,
    parent: str | None,
    after: str | None,
    limit: int,
) -> list[Pool]:
    """Pools by id, from `after` on."""
    rows = await tx.fetch(_POOLS, everything, list(factories), resource, kind, open_at, parent, after, limit)
    return [Pool(**row) for row in rows]


async def add_pool(tx: Transaction, pool: Pool) -> bool:
    """Keep a new pool, with nothing in it; False if the id is taken."""
    done = await tx.execute(
        _ADD_POOL,
        pool.id,
        pool.kind,
        pool.title,
        pool.parent,
        pool.funder,
        pool.factory_id,
        pool.resource,
        pool.starts_at,
        pool.ends_at,
        pool.earmark,
        pool.use_or_lose,
        pool.most_per_grant,
        pool.longest_days,
        pool.account,
        pool.created_by,
        pool.created_at,
    )
    return done == "INSERT 0 1"


async def change_pool(
    tx: Transaction,
    pool_id: str,
    *,
    title: str,
    reserved: int,
    use_or_lose: str | None,
    most_per_grant: int | None,
    longest_days: int | None,
) -> Pool:
    """Keep what was decided of a pool beside its amounts."""
    row = await tx.fetchrow(_CHANGE_POOL, pool_id, title, reserved, use_or_lose, most_per_grant, longest_days)
    return _pool(row, pool_id)


async def take(tx: Transaction, pool_id: str, amount: int, *, yielding: bool = False) -> Pool | None:
    """Pass on an amount; None if there is not enough. The one statement that decides."""
    row = await tx.fetchrow(_TAKE, pool_id, amount, yielding)
    return None if row is None else Pool(**row)


async def give_back(tx: Transaction, pool_id: str, amount: int) -> Pool:
    """Take back what was passed on."""
    return _pool(await tx.fetchrow(_GIVE_BACK, pool_id, amount), pool_id)


async def regain(tx: Transaction, pool_id: str, amount: int) -> Pool:
    """Take in hours that were passed on and not used; beyond all that was passed on they are new ones."""
    row = await tx.fetchrow(_GIVE_BACK, pool_id, amount)
    return await fund(tx, pool_id, amount) if row is None else Pool(**row)


async def fund(tx: Transaction, pool_id: str, amount: int) -> Pool:
    """Put an amount in."""
    return _pool(await tx.fetchrow(_FUND, pool_id, amount), pool_id)


async def withdraw(tx: Transaction, pool_id: str, amount: int) -> Pool | None:
    """Take an amount out again; None if there is not enough."""
    row = await tx.fetchrow(_WITHDRAW, pool_id, amount)
    return None if row is None else Pool(**row)


async def find_cap(tx: Transaction, cap_id: str, *, lock: bool = False) -> Cap:
    """Read a cap; `lock` holds the row until the end. Raises NotFound."""
    row = await tx.fetchrow(_CAP + (" FOR UPDATE" if lock else ""), cap_id)
    if row is None:
        raise NotFound(f"there is no cap {cap_id}")
    return Cap(**row)


async def caps_of(tx: Transaction, resource: ResourceId, kind: PoolKind, *, lock: bool = False) -> list[Cap]:
    """All caps on a resource, over pools of a kind, in the order in which they are locked."""
    return [Cap(**row) for row in await tx.fetch(_CAPS_OF + (" FOR UPDATE" if lock else ""), resource, kind)]


async def list_caps(
    tx: Transaction,
    *,
    everything: bool,
    factories: Iterable[FactoryId],
    resource: ResourceId | None,
    policy_version: str | None,
    mode: str | None,
    after: str | None,
    limit: int,
) -> list[Cap]:
    """Caps by id, from `after` on; `mode` is a mode or a group."""
    rows = await tx.fetch(_CAPS, everything, list(factories), resource, policy_version, mode, after, limit)
    return [Cap(**row) for row in rows]


async def add_cap(tx: Transaction, cap: Cap) -> bool:
    """Keep a new cap; False if the id is taken, or the group has a cap there already."""
    done = await tx.execute(
        _ADD_CAP,
        cap.id,
        cap.factory_id,
        cap.policy_version,
        cap.mode_group,
        list(cap.modes),
        cap.pool_kind,
        cap.resource,
        cap.starts_at,
        cap.ends_at,
        cap.pct,
        cap.base,
        cap.base_amount,
        cap.ceiling,
        cap.used,
        cap.yields,
        cap.source,
        cap.account,
        cap.created_by,
        cap.created_at,
    )
    return done == "INSERT 0 1"


async def change_cap(
    tx: Transaction, cap_id: str, *, pct: int, base: Base, base_amount: int, ceiling: int, yields: bool, source: str
) -> Cap:
    """Keep a cap's new ceiling, and what it is made of."""
    row = await tx.fetchrow(_CHANGE_CAP, cap_id, pct, base, base_amount, ceiling, yields, source)
    if row is None:
        raise NotFound(f"there is no cap {cap_id}")
    return Cap(**row)


async def take_cap(tx: Transaction, cap_id: str, amount: int) -> Cap | None:
    """Count an amount under a cap; None if it would pass the ceiling."""
    row = await tx.fetchrow(_TAKE_CAP, cap_id, amount)
    return None if row is None else Cap(**row)


async def give_back_cap(tx: Transaction, cap_id: str, amount: int) -> Cap:
    """Count an amount no more."""
    row = await tx.fetchrow(_GIVE_BACK_CAP, cap_id, amount)
    if row is None:
        raise RuntimeError(f"cap {cap_id} would stand below zero")
    return Cap(**row)


async def funded(tx: Transaction, resource: ResourceId, kind: PoolKind, starts_at: datetime, ends_at: datetime) -> int:
    """What all pools of a kind were funded with that are open some time in between; pools inside others once."""
    return int(await tx.fetchval(_FUNDED, resource, kind, starts_at, ends_at))


async def granted(
    tx: Transaction,
    resource: ResourceId,
    kind: PoolKind,
    policy_version: str,
    modes: Sequence[str],
    starts_at: datetime,
    ends_at: datetime,
) -> int:
    """What was granted to some modes under one policy version, starting in some time."""
    return int(await tx.fetchval(_GRANTED, resource, kind, policy_version, list(modes), starts_at, ends_at))


async def post_moves(tx: Transaction, moves: Iterable[Move], at: datetime) -> None:
    """Write movements between pools, funders, groups and clearing accounts."""
    rows = [
        (OF_NO_ALLOCATION, one.kind, one.source, one.target, one.resource, one.amount, one.job_id, at)
        for one in moves
        if one.amount > 0
    ]
    if rows:
        await tx.copy_records_to_table("ledger_transfer", records=rows, columns=_MOVE_COLUMNS)


async def list_movements(tx: Transaction, account: int, *, after: int, limit: int) -> list[Movement]:
    """What went in and out of an account, oldest first."""
    return [Movement(**row) for row in await tx.fetch(_MOVEMENTS, account, after, limit)]


async def list_clearing(tx: Transaction, *, after: tuple[str, str] | None, limit: int) -> list[ClearingBalance]:
    """The balances between this factory and others, by account."""
    owner, resource = after or (None, None)
    return [ClearingBalance(**row) for row in await tx.fetch(_CLEARING, owner, resource, limit)]


def _pool(row: Row | None, pool_id: str) -> Pool:
    if row is None:
        raise RuntimeError(f"pool {pool_id} would not hold")
    return Pool(**row)
