"""Corrections by hand: what they correct, and what they have become."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from aifn_common.database import Transaction
from aifn_common.errors import NotFound
from aifn_events.vocabulary import AllocationId, FactoryId, JobId, ProjectId, ResourceId, Subject

# Of a record the highest revision counts, whichever revision the line was posted for.
_LINE = """
SELECT t.id, t.kind, t.amount, t.job_id, t.usage_number, c.id AS correction_id, c.amount AS own, c.root,
    c.usage_number AS root_usage, c.job_id AS root_job,
    coalesce((SELECT -sum(amount) FROM correction WHERE corrects = c.id), 0)::bigint AS undone
FROM ledger_transfer t LEFT JOIN correction c ON c.transfer_id = t.id
WHERE t.id = $1 AND t.allocation_number = $2"""
_SAME_RECORD = """
    SELECT u.number FROM usage_record u JOIN usage_record one ON one.number = $2
    WHERE (u.local_job_id, u.machine_id, u.submitted_at, u.segment)
        = (one.local_job_id, one.machine_id, one.submitted_at, one.segment)"""
_OF_RECORD = f"""
WITH same AS ({_SAME_RECORD})
SELECT coalesce((SELECT sum(c.amount) FROM usage_charge c JOIN current_usage u ON u.number = c.usage_number
        WHERE c.allocation_number = $1 AND c.usage_number IN (SELECT number FROM same)), 0)::bigint AS charged,
    coalesce((SELECT sum(amount) FROM correction
        WHERE allocation_number = $1 AND usage_number IN (SELECT number FROM same)), 0)::bigint AS given_back"""
_OF_JOB = """
SELECT coalesce((SELECT sum(amount) FROM settlement
        WHERE side = 'home' AND allocation_number = $1 AND job_id = $2), 0)::bigint AS charged,
    coalesce((SELECT sum(amount) FROM correction
        WHERE allocation_number = $1 AND usage_number IS NULL AND job_id = $2), 0)::bigint AS given_back"""
_LAST = "SELECT max(id) FROM ledger_transfer WHERE allocation_number = $1 AND kind = 'correction'"
_ADD = """
INSERT INTO correction (id, allocation_number, amount, transfer_id, corrects_transfer, corrects, root, usage_number,
    job_id, reason, corrected_by, approved_by, corrected_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"""
_RAISE = "UPDATE allocation SET corrected = corrected + $2, revision = revision + 1 WHERE number = $1"
_BY_HAND = """
SELECT coalesce(sum(abs(c.amount)), 0)::bigint FROM correction c JOIN allocation a ON a.number = c.allocation_number
WHERE a.project_id = $1 AND a.resource = $2"""
_LIST = """
SELECT c.id, c.number, a.id AS allocation_id, a.project_id, p.factory_id, a.resource, c.amount, c.transfer_id,
    c.corrects_transfer, c.corrects, c.root, c.job_id, u.machine_id, u.local_job_id, u.submitted_at, u.segment,
    u.revision, c.reason, c.corrected_by, c.approved_by, c.corrected_at
FROM correction c JOIN allocation a ON a.number = c.allocation_number JOIN project p ON p.id = a.project_id
LEFT JOIN usage_record u ON u.number = c.usage_number
WHERE ($1 OR a.project_id = ANY($2::text[]) OR p.factory_id = ANY($3::text[]))
  AND ($4::text IS NULL OR a.id = $4) AND ($5::text IS NULL OR a.project_id = $5)
  AND ($6::text IS NULL OR c.id = $6) AND c.number > $7
ORDER BY c.number LIMIT $8"""


@dataclass(frozen=True)
class Posted:
    """A line of a statement as it was posted, and if it is a correction, of which charge.

    `own`, `undone`: see `domain.corrections.Line`; `root`: the line of the charge it began with, itself if it is that.
    """

    id: int
    kind: str
    job_id: JobId | None
    usage_number: int | None
    correction_id: str | None
    own: int | None
    undone: int
    root: int


@dataclass(frozen=True)
class Correction:
    """A correction by hand; the five from `machine_id` on are of the usage record it is about, if it is about one."""

    id: str
    number: int
    allocation_id: AllocationId
    project_id: ProjectId
    factory_id: FactoryId
    resource: ResourceId
    amount: int
    transfer_id: int
    corrects_transfer: int
    corrects: str | None
    root: int
    job_id: JobId | None
    machine_id: str | None
    local_job_id: str | None
    submitted_at: datetime | None
    segment: int | None
    revision: int | None
    reason: str
    corrected_by: Subject
    approved_by: Subject | None
    corrected_at: datetime


async def get_line(tx: Transaction, allocation: int, transfer_id: int) -> Posted:
    """A line of an allocation's statement. Raises NotFound."""
    row = await tx.fetchrow(_LINE, transfer_id, allocation)
    if row is None:
        raise NotFound(f"line {transfer_id} is not on this allocation's statement")
    is_correction = row["correction_id"] is not None
    return Posted(
        row["id"],
        row["kind"],
        row["root_job"] if is_correction else row["job_id"],
        row["root_usage"] if is_correction else row["usage_number"],
        row["correction_id"],
        row["own"],
        row["undone"],
        row["root"] if is_correction else row["id"],
    )


async def cost_of(tx: Transaction, allocation: int, line: Posted) -> tuple[int, int]:
    """What the charge behind a line costs its allocation now, and how much of that was given back by hand."""
    if line.usage_number is None:
        row = await tx.fetchrow(_OF_JOB, allocation, line.job_id)
    else:
        row = await tx.fetchrow(_OF_RECORD, allocation, line.usage_number)
    assert row is not None  # sums are always there
    return row["charged"], row["given_back"]


async def add(
    tx: Transaction,
    correction_id: str,
    allocation: int,
    line: Posted,
    amount: int,
    *,
    reason: str,
    by: Subject,
    approved_by: Subject | None,
    at: datetime,
) -> None:
    """Keep a correction whose transfer was just posted, its allocation locked."""
    transfer_id = int(await tx.fetchval(_LAST, allocation))
    await tx.execute(
        _ADD, correction_id, allocation, amount, transfer_id, line.id, line.correction_id, line.root, line.usage_number,
        line.job_id, reason, by, approved_by, at,
    )  # fmt: skip
    await tx.execute(_RAISE, allocation, amount)


async def corrected_by_hand(tx: Transaction, project_id: ProjectId, resource: ResourceId) -> int:
    """How much people have corrected of one project and resource, in either direction."""
    return int(await tx.fetchval(_BY_HAND, project_id, resource))


async def list_corrections(
    tx: Transaction,
    *,
    everything: bool,
    projects: Iterable[ProjectId] = (),
    factories: Iterable[FactoryId] = (),
    allocation_id: AllocationId | None = None,
    project_id: ProjectId | None = None,
    correction_id: str | None = None,
    after: int = 0,
    limit: int = 1,
) -> list[Correction]:
    """Corrections in the order in which they were made."""
    rows = await tx.fetch(
        _LIST, everything, list(projects), list(factories), allocation_id, project_id, correction_id, after, limit
    )
    return [Correction(**row) for row in rows]


async def get(tx: Transaction, correction_id: str) -> Correction:
    """One correction. Raises NotFound."""
    found = await list_corrections(tx, everything=True, correction_id=correction_id)
    if not found:
        raise NotFound(f"there is no correction {correction_id}")
    return found[0]
