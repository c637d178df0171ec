"""What numbers of one database stand for, so that an order which names one can be carried out in another."""

from typing import NamedTuple

from aifn_common.database import Row, Transaction
from aifn_common.errors import NotFound
from aifn_events.vocabulary import AllocationId

_IDENTITY = """
SELECT local_job_id, machine_id, submitted_at, segment, revision FROM usage_record WHERE number = $1"""
_NUMBER = """
SELECT number FROM usage_record
WHERE (local_job_id, machine_id, submitted_at, segment, revision) = ($1, $2, $3, $4, $5)"""
_LINE = """
SELECT t.kind, t.job_id, t.usage_number,
    (SELECT count(*) FROM ledger_transfer e WHERE e.allocation_number = t.allocation_number AND e.id < t.id
        AND (e.kind, e.job_id, e.usage_number) IS NOT DISTINCT FROM (t.kind, t.job_id, t.usage_number)) AS before
FROM ledger_transfer t JOIN allocation a ON a.number = t.allocation_number WHERE a.id = $1 AND t.id = $2"""
_FIND_LINE = """
SELECT t.id FROM ledger_transfer t JOIN allocation a ON a.number = t.allocation_number
WHERE a.id = $1 AND (t.kind, t.job_id, t.usage_number) IS NOT DISTINCT FROM ($2, $3, $4::bigint)
ORDER BY t.id LIMIT 1 OFFSET $5"""


class Line(NamedTuple):
    """A line of a statement: what it is for, and how many such lines stand before it."""

    kind: str
    job_id: str | None
    record: Row | None
    before: int


async def identity_of_record(tx: Transaction, number: int) -> Row:
    """Identity and revision of a usage record. Raises NotFound."""
    row = await tx.fetchrow(_IDENTITY, number)
    if row is None:
        raise NotFound(f"there is no usage record {number}")
    return row


async def number_of_record(tx: Transaction, identity: Row) -> int:
    """The number of a record here. Raises NotFound."""
    number = await tx.fetchval(_NUMBER, *identity)
    if number is None:
        raise NotFound(f"usage record {tuple(identity)} is not here")
    return int(number)


async def describe_line(tx: Transaction, allocation_id: AllocationId, transfer_id: int) -> Line:
    """What a transfer on an allocation's statement is. Raises NotFound."""
    row = await tx.fetchrow(_LINE, allocation_id, transfer_id)
    if row is None:
        raise NotFound(f"the statement of {allocation_id} has no line {transfer_id}")
    record = None if row["usage_number"] is None else await identity_of_record(tx, row["usage_number"])
    return Line(row["kind"], row["job_id"], record, row["before"])


async def find_line(tx: Transaction, allocation_id: AllocationId, line: Line) -> int:
    """The same line here. Raises NotFound."""
    number = None if line.record is None else await number_of_record(tx, line.record)
    found = await tx.fetchval(_FIND_LINE, allocation_id, line.kind, line.job_id, number, line.before)
    if found is None:
        raise NotFound(f"the statement of {allocation_id} has no such line: {line.kind} for {line.job_id}")
    return int(found)
