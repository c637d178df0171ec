"""What people decided, and what waits for them: the trail of changes, approvals, awards that wait, settlements."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aifn_common.database import Row, Transaction
from aifn_common.errors import NotFound
from aifn_events.vocabulary import FactoryId, ProjectId, Subject

_ADD_CHANGE = """
INSERT INTO change_log (changed_at, actor, action, thing, thing_id, project_id, factory_id, reason, before, after)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""
_CHANGES = """
SELECT number, changed_at, actor, action, thing, thing_id, project_id, factory_id, reason, before, after FROM change_log
WHERE ($1 OR factory_id = ANY($2::text[])) AND ($3::text IS NULL OR thing = $3) AND ($4::text IS NULL OR thing_id = $4)
  AND ($5::text IS NULL OR project_id = $5) AND ($6::text IS NULL OR actor = $6) AND number > $7
ORDER BY number LIMIT $8"""

_WAIT = """
INSERT INTO pending_award (award_id, project_id, factory_id, event, code, because, received_at, tried_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
ON CONFLICT (award_id) DO UPDATE SET code = EXCLUDED.code, because = EXCLUDED.because, tried_at = EXCLUDED.tried_at,
    tries = pending_award.tries + 1
WHERE pending_award.state = 'waiting'"""
_AWARD_COLUMNS = "award_id, number, project_id, factory_id, event, code, because, tries, state, received_at, tried_at"
_PENDING = f"SELECT {_AWARD_COLUMNS} FROM pending_award WHERE award_id = $1"
_PENDING_LIST = f"""
SELECT {_AWARD_COLUMNS} FROM pending_award
WHERE ($1 OR factory_id = ANY($2::text[])) AND ($3::text IS NULL OR state = $3) AND number > $4
ORDER BY number LIMIT $5"""
_WAITING = "SELECT award_id FROM pending_award WHERE state = 'waiting' ORDER BY number LIMIT $1"
_END_WAIT = "UPDATE pending_award SET state = $2, tried_at = $3 WHERE award_id = $1 AND state = 'waiting'"

_APPROVAL_COLUMNS = """id, number, what, project_id, factory_id, permission, words, amount, asked_by, asked_at, state,
    decided_by, decided_at, reason, allocation_id, pool_id"""
_ADD_APPROVAL = f"""
INSERT INTO approval (id, what, project_id, factory_id, permission, words, amount, asked_by, asked_at, allocation_id,
    pool_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING {_APPROVAL_COLUMNS}"""
_APPROVAL = f"SELECT {_APPROVAL_COLUMNS} FROM approval WHERE id = $1"
_APPROVALS = f"""
SELECT {_APPROVAL_COLUMNS} FROM approval
WHERE ($1 OR factory_id = ANY($2::text[])) AND ($3::text IS NULL OR state = $3)
  AND ($4::text IS NULL OR project_id = $4) AND number > $5
ORDER BY number LIMIT $6"""
_DECIDE = f"""
UPDATE approval SET state = $2, decided_by = $3, decided_at = $4, reason = $5, allocation_id = $6
WHERE id = $1 AND state = 'waiting' RETURNING {_APPROVAL_COLUMNS}"""

_ADD_SETTLEMENT = """
INSERT INTO settlement (id, side, clearing, agreement, job_id, allocation_number, pool_id, resource, amount,
    other_resource, other_amount, numerator, denominator, settled_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (id) DO NOTHING"""


@dataclass(frozen=True)
class Change:
    """Who changed what, and why; `before` is None for what was made, `after` for what is gone."""

    number: int
    changed_at: datetime
    actor: str
    action: str
    thing: str
    thing_id: str
    project_id: ProjectId | None
    factory_id: FactoryId
    reason: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


@dataclass(frozen=True)
class PendingAward:
    """An award that was heard of and could not be carried out, with the event as it came."""

    award_id: str
    number: int
    project_id: ProjectId
    factory_id: FactoryId
    event: Mapping[str, Any]
    code: str
    because: str
    tries: int
    state: str
    received_at: datetime
    tried_at: datetime


@dataclass(frozen=True)
class Approval:
    """Something large that one person asked for, and another decides on."""

    id: str
    number: int
    what: str
    project_id: ProjectId | None
    factory_id: FactoryId
    permission: str
    words: Mapping[str, Any]
    amount: int
    asked_by: Subject
    asked_at: datetime
    state: str
    decided_by: Subject | None
    decided_at: datetime | None
    reason: str | None
    allocation_id: str | None
    pool_id: str | None


async def add_change(
    tx: Transaction,
    *,
    at: datetime,
    actor: str,
    action: str,
    thing: str,
    thing_id: str,
    project_id: ProjectId | None,
    factory_id: FactoryId,
    reason: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    """Add to the trail."""
    await tx.execute(_ADD_CHANGE, at, actor, action, thing, thing_id, project_id, factory_id, reason, before, after)


async def list_changes(
    tx: Transaction,
    *,
    everything: bool,
    factories: Iterable[FactoryId],
    thing: str | None,
    thing_id: str | None,
    project_id: ProjectId | None,
    actor: str | None,
    after: int,
    limit: int,
) -> list[Change]:
    """The trail, oldest first."""
    rows = await tx.fetch(_CHANGES, everything, list(factories), thing, thing_id, project_id, actor, after, limit)
    return [Change(**row) for row in rows]


async def keep_waiting(
    tx: Transaction,
    award_id: str,
    project_id: ProjectId,
    factory_id: FactoryId,
    event: Mapping[str, Any],
    *,
    code: str,
    because: str,
    at: datetime,
) -> None:
    """Keep an award that cannot be carried out, or that it still cannot be."""
    await tx.execute(_WAIT, award_id, project_id, factory_id, event, code, because, at)


async def find_pending(tx: Transaction, award_id: str, *, lock: bool = False) -> PendingAward | None:
    """An award that waits or has waited; None if it never did."""
    row = await tx.fetchrow(_PENDING + (" FOR UPDATE" if lock else ""), award_id)
    return None if row is None else PendingAward(**row)


async def list_pending(
    tx: Transaction, *, everything: bool, factories: Iterable[FactoryId], state: str | None, after: int, limit: int
) -> list[PendingAward]:
    """Awards that wait or have waited, in the order in which they were heard of."""
    rows = await tx.fetch(_PENDING_LIST, everything, list(factories), state, after, limit)
    return [PendingAward(**row) for row in rows]


async def waiting_awards(tx: Transaction, *, limit: int) -> list[str]:
    """The awards that wait, first come first."""
    return [row["award_id"] for row in await tx.fetch(_WAITING, limit)]


async def end_wait(tx: Transaction, award_id: str, state: str, at: datetime) -> None:
    """Say that an award was carried out, or withdrawn."""
    await tx.execute(_END_WAIT, award_id, state, at)


async def add_approval(
    tx: Transaction,
    approval_id: str,
    *,
    what: str,
    project_id: ProjectId | None,
    factory_id: FactoryId,
    permission: str,
    words: Mapping[str, Any],
    amount: int,
    by: Subject,
    at: datetime,
    allocation_id: str | None,
    pool_id: str | None,
) -> Approval:
    """Keep what one person asked for until another has decided."""
    row = await tx.fetchrow(
        _ADD_APPROVAL, approval_id, what, project_id, factory_id, permission, words, amount, by, at, allocation_id,
        pool_id,
    )  # fmt: skip
    return _approval(row, approval_id)


async def get_approval(tx: Transaction, approval_id: str, *, lock: bool = False) -> Approval:
    """Read an approval. Raises NotFound."""
    return _approval(await tx.fetchrow(_APPROVAL + (" FOR UPDATE" if lock else ""), approval_id), approval_id)


async def list_approvals(
    tx: Transaction,
    *,
    everything: bool,
    factories: Iterable[FactoryId],
    state: str | None,
    project_id: ProjectId | None,
    after: int,
    limit: int,
) -> list[Approval]:
    """Approvals in the order in which they were asked for."""
    rows = await tx.fetch(_APPROVALS, everything, list(factories), state, project_id, after, limit)
    return [Approval(**row) for row in rows]


async def decide(
    tx: Transaction, approval_id: str, state: str, *, by: Subject, reason: str, at: datetime, allocation_id: str | None
) -> Approval:
    """Keep a decision. Raises NotFound if there is nothing that waits."""
    return _approval(await tx.fetchrow(_DECIDE, approval_id, state, by, at, reason, allocation_id), approval_id)


def _approval(row: Row | None, approval_id: str) -> Approval:
    if row is None:
        raise NotFound(f"there is no approval {approval_id}")
    return Approval(**row)


async def add_settlement(tx: Transaction, row: tuple[object, ...]) -> bool:
    """Keep a settlement, in the order of the table's columns; False if it is there."""
    return await tx.execute(_ADD_SETTLEMENT, *row) == "INSERT 0 1"
