"""Usage that waits for an allocation that can pay it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aifn_common.database import Row, Transaction
from aifn_common.errors import NotFound
from aifn_events.usage import UsageCharged
from aifn_events.vocabulary import JobId, MachineId, PartitionId, ProjectId, ResourceId, Subject

from aifn_accounting.domain.usage import Charge

# What somebody said of a record holds for its corrections too.
_ADD = """
INSERT INTO suspense (usage_number, project_id, since, attributed_by, attributed_at, reason)
SELECT u.number, coalesce(said.project_id, u.project_id), $2, said.attributed_by, said.attributed_at, said.reason
FROM usage_record u LEFT JOIN LATERAL (
    SELECT s.project_id, s.attributed_by, s.attributed_at, s.reason
    FROM usage_record e JOIN suspense s ON s.usage_number = e.number
    WHERE (e.local_job_id, e.machine_id, e.submitted_at, e.segment)
        = (u.local_job_id, u.machine_id, u.submitted_at, u.segment)
      AND e.project_id = u.project_id AND s.attributed_by IS NOT NULL
    ORDER BY s.attributed_at DESC LIMIT 1
) said ON true
WHERE u.number = ANY($1::bigint[])"""
_RECORDS = """
SELECT s.usage_number, s.project_id, u.project_id AS reported_project, s.since, s.attributed_by, s.attributed_at,
    s.reason, u.machine_id, u.partition_id, u.local_job_id, u.submitted_at, u.segment, u.revision, u.job_id,
    u.local_user, u.kind, u.state, u.started_at, u.ended_at, u.nodes, u.amounts, u.collector, u.occupied
FROM suspense s JOIN usage_record u ON u.number = s.usage_number"""
# A record whose correction is known counts no more, and what it waits for does not matter.
_COUNTS = """NOT EXISTS (
    SELECT FROM usage_record later
    WHERE (later.local_job_id, later.machine_id, later.submitted_at, later.segment)
        = (u.local_job_id, u.machine_id, u.submitted_at, u.segment) AND later.revision > u.revision)"""
_PAYABLE = f"""{_RECORDS}
WHERE s.settled_at IS NULL AND {_COUNTS} AND NOT EXISTS (
    SELECT FROM json_object_keys(u.amounts) AS wanted (resource)
    WHERE NOT EXISTS (
        SELECT FROM allocation a WHERE a.project_id = s.project_id AND a.resource = wanted.resource))
ORDER BY s.usage_number LIMIT $1"""
_WAITING = f"""{_RECORDS}
WHERE s.settled_at IS NULL AND s.usage_number > $1 AND ($2::text IS NULL OR s.project_id = $2) AND {_COUNTS}
ORDER BY s.usage_number LIMIT $3"""
_ONE = f"{_RECORDS} WHERE s.usage_number = $1 AND s.settled_at IS NULL FOR UPDATE OF s"
_ATTRIBUTE = """
UPDATE suspense SET project_id = $2, attributed_by = $3, attributed_at = $4, reason = $5 WHERE usage_number = $1"""
_SETTLE = "UPDATE suspense SET settled_at = $2 WHERE usage_number = ANY($1::bigint[])"
_PAID_BEFORE = """
SELECT DISTINCT ON (u.number, c.allocation_number) u.number, c.allocation_number, c.resource, 0 AS amount, c.rate_card
FROM usage_record u
JOIN usage_record e ON (e.local_job_id, e.machine_id, e.submitted_at, e.segment)
    = (u.local_job_id, u.machine_id, u.submitted_at, u.segment) AND e.revision < u.revision
JOIN usage_charge c ON c.usage_number = e.number
WHERE u.number = ANY($1::bigint[]) AND c.amount > 0
ORDER BY u.number, c.allocation_number, e.revision DESC"""
_SETTLED_CHARGES = """
SELECT u.machine_id, u.local_job_id, u.submitted_at, u.segment, u.revision, u.job_id, a.project_id,
    a.id AS allocation_id, c.resource, c.amount, c.rate_card, u.ended_at, u.pseudonym AS user
FROM usage_charge c JOIN usage_record u ON u.number = c.usage_number JOIN allocation a ON a.number = c.allocation_number
WHERE c.usage_number = ANY($1::bigint[]) AND c.settled ORDER BY c.usage_number, c.allocation_number"""


@dataclass(frozen=True)
class Waiting:
    """A usage record in suspense, with what it needs to be charged. `project_id` is the one that is to pay."""

    usage_number: int
    project_id: ProjectId
    reported_project: ProjectId
    since: datetime
    attributed_by: Subject | None
    attributed_at: datetime | None
    reason: str | None
    machine_id: MachineId
    partition_id: PartitionId
    local_job_id: str
    submitted_at: datetime
    segment: int
    revision: int
    job_id: JobId
    local_user: str
    kind: str
    state: str
    started_at: datetime
    ended_at: datetime
    nodes: int
    amounts: Mapping[ResourceId, int]
    collector: str
    cores: int | None = None
    devices: int | None = None
    memory_mib: int | None = None
    exclusive: bool | None = None
    suspended_seconds: int = 0
    idle_reservation: bool = False
    gpu_model: str | None = None
    energy_joules: int | None = None


async def add(tx: Transaction, numbers: Sequence[int], at: datetime) -> None:
    """Let stored records wait."""
    if numbers:
        await tx.execute(_ADD, numbers, at)


async def payable(tx: Transaction, *, limit: int) -> list[Waiting]:
    """Records that wait and need not any more: every resource has an allocation now. `lock_usage` first."""
    return [_waiting(row) for row in await tx.fetch(_PAYABLE, limit)]


async def list_waiting(tx: Transaction, *, project: ProjectId | None, after: int, limit: int) -> list[Waiting]:
    """Records that wait and count, in the order in which they were heard."""
    return [_waiting(row) for row in await tx.fetch(_WAITING, after, project, limit)]


async def get_waiting(tx: Transaction, number: int) -> Waiting:
    """One that waits; the row is held until the end. Raises NotFound."""
    row = await tx.fetchrow(_ONE, number)
    if row is None:
        raise NotFound(f"usage record {number} is not in suspense")
    return _waiting(row)


async def attribute(
    tx: Transaction, number: int, project_id: ProjectId, *, by: Subject, at: datetime, reason: str
) -> None:
    """Remember who is to pay, who said so, and why."""
    await tx.execute(_ATTRIBUTE, number, project_id, by, at, reason)


async def settle(tx: Transaction, numbers: Sequence[int], at: datetime) -> None:
    """These wait no more."""
    await tx.execute(_SETTLE, numbers, at)


async def paid_before(tx: Transaction, numbers: Sequence[int]) -> list[Charge]:
    """A charge of nothing for every allocation that paid for an earlier revision of these records."""
    return [Charge(*row) for row in await tx.fetch(_PAID_BEFORE, numbers)]


async def settled_charges(tx: Transaction, numbers: Sequence[int]) -> list[UsageCharged]:
    """What these records cost in the end, as it is said to others."""
    return [UsageCharged(**row) for row in await tx.fetch(_SETTLED_CHARGES, numbers)]


def _waiting(row: Row) -> Waiting:
    words: dict[str, Any] = dict(row)
    words["amounts"] = json.loads(words["amounts"])
    occupied = json.loads(words.pop("occupied") or "{}")
    return Waiting(**words, **occupied)
