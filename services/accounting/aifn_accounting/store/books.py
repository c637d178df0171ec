"""The books as bytes: every row that is compared when they are rebuilt, in one order.

Numbers that a database gives out (of allocations, accounts, transfers) differ after a rebuild, because what is rolled
back uses some up. They are replaced by what they stand for. Not on the books: what is sent, delivered, or looked after.
"""

from collections.abc import AsyncIterator
from hashlib import sha256

from aifn_common.database import Transaction

_ALLOCATION = "LEFT JOIN allocation a ON a.number = t.allocation_number"
_WITH_ALLOCATION = "|| jsonb_build_object('allocation', a.id)"
_EXISTS = "SELECT to_regclass($1) IS NOT NULL"

_TRANSFERS = """
SELECT ROW(a.id, t.kind, s.owner, s.role, d.owner, d.role, t.resource, t.amount, t.job_id, t.usage_number,
    t.recorded_at)::text
FROM ledger_transfer t LEFT JOIN allocation a ON a.number = t.allocation_number
JOIN account s ON s.id = t.source JOIN account d ON d.id = t.target
ORDER BY a.id COLLATE "C" NULLS FIRST, CASE WHEN a.id IS NOT NULL THEN t.id END, 1"""
_RECORDS = """
SELECT ROW(t.number, t.machine_id, t.local_job_id, t.submitted_at, t.segment, t.revision, t.job_id, t.project_id,
    t.partition_id, t.local_user, t.pseudonym, t.kind, t.state, t.started_at, t.ended_at, t.nodes, t.amounts::text,
    t.collector, t.recorded_at, t.occupied, a.id, t.charged, t.rate_card)::text
FROM usage_record t LEFT JOIN allocation a ON a.number = t.allocation_number ORDER BY t.number"""
_CHARGES = """
SELECT ROW(t.usage_number, a.id, t.amount, t.rate_card, t.position)::text
FROM further_charge t JOIN allocation a ON a.number = t.allocation_number
ORDER BY t.position, t.usage_number, a.id COLLATE "C" """


def _rows(table: str, *without: str, names_allocation: bool = False) -> str:
    """All rows of a small table as JSON, sorted by what they say."""
    words = "to_jsonb(t) - ARRAY[" + ", ".join(f"'{column}'" for column in ("allocation_number", *without)) + "]"
    named = (_WITH_ALLOCATION, _ALLOCATION) if names_allocation else ("", "")
    return f'SELECT ({words} {named[0]})::text COLLATE "C" FROM {table} t {named[1]} ORDER BY 1'


BOOKS: dict[str, str] = {
    "resource": _rows("resource"),
    "other_resource": _rows("other_resource"),
    "rate_card": _rows("rate_card", "published_at"),
    "project": _rows("project"),
    "membership": _rows("membership"),
    "person": _rows("person"),
    "award": _rows("award"),
    "pending_award": _rows("pending_award", "number", "code", "because", "tries", "tried_at"),
    "pool": _rows("pool", "account"),
    "share_cap": _rows("share_cap", "account"),
    "allocation": _rows(
        "allocation", "number", "available_account", "held_account", "consumed_account", "overrun_account"
    ),
    "approval": _rows("approval", "number", "words"),
    "policy_step": _rows("policy_step", names_allocation=True),
    "settlement": _rows("settlement", "number", names_allocation=True),
    "clearing_month": _rows("clearing_month"),
    "correction": _rows("correction", "number", "transfer_id", "corrects_transfer", "root", names_allocation=True),
    "hour_value": _rows("hour_value"),
    "period": _rows("period", "gaps_accepted"),
    "period_total": _rows("period_total", names_allocation=True),
    "period_entry": _rows("period_entry", "number", names_allocation=True),
    "usage_day": _rows("usage_day"),
    "suspense": _rows("suspense"),
    "job_budget": _rows("job_budget", names_allocation=True),
    "change_log": _rows("change_log", "number", "before", "after"),
    "usage_record": _RECORDS,
    "further_charge": _CHARGES,
    "ledger_transfer": _TRANSFERS,
}
"""What must be the same, byte for byte, when the log is carried out again in its own order."""

BALANCES: dict[str, str] = {
    "allocation": """
SELECT ROW(t.id, t.granted, t.available, t.held, t.charged, t.corrected, t.overrun, t.expired, t.returned)::text
    COLLATE "C"
FROM allocation t ORDER BY 1""",
    "pool": 'SELECT ROW(t.id, t.funded, t.passed_on, t.reserved)::text COLLATE "C" FROM pool t ORDER BY 1',
    "share_cap": 'SELECT ROW(t.id, t.ceiling, t.used)::text COLLATE "C" FROM share_cap t ORDER BY 1',
    "account": """
SELECT ROW(a.owner, a.role, a.resource, sum(p.amount))::text COLLATE "C"
FROM posting p JOIN account a ON a.id = p.account_id GROUP BY a.owner, a.role, a.resource HAVING sum(p.amount) <> 0
ORDER BY 1""",
}
"""What must be the same in whatever order usage was heard."""


async def exists(tx: Transaction, table: str) -> bool:
    """Whether a table is there."""
    return bool(await tx.fetchval(_EXISTS, table))


async def digest(tx: Transaction, query: str) -> str:
    """SHA-256 of all rows of a query; they stream by, and are never in memory together."""
    found = sha256()

    async def take(data: bytes) -> None:
        found.update(data)

    await tx.copy_from_query(query, output=take, timeout=None)
    return found.hexdigest()


async def lines(tx: Transaction, query: str) -> AsyncIterator[str]:
    """The rows of a query one by one; in a transaction of the caller's."""
    async for row in tx.cursor(query, prefetch=200):
        yield row[0]
