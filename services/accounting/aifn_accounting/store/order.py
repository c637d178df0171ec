"""Locks beside the rows, so that the event log's order is the order in which things took effect."""

from aifn_common.database import Transaction
from aifn_events.vocabulary import JobId, ProjectId

# The key of `usage.lock_usage`: whoever takes it in this mode waits for a batch of usage, and not for one another.
_BESIDE_USAGE = "SELECT pg_advisory_xact_lock_shared(7075616765)"
_OPENING = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_HOLDING = """
SELECT pg_advisory_xact_lock(hashtextextended($1, 0)), pg_advisory_xact_lock_shared(hashtextextended($2, 0))"""


async def beside_usage(tx: Transaction) -> None:
    """Change what usage is charged by: no batch that began before may end after. Taken before pools and allocations."""
    await tx.execute(_BESIDE_USAGE)


async def open_in_project(tx: Transaction, project_id: ProjectId) -> None:
    """Give a project an allocation: no hold that did not see it may end after."""
    await tx.execute(_OPENING, f"allocations of {project_id}")


async def hold_in_project(tx: Transaction, job_id: JobId, project_id: ProjectId) -> None:
    """One transaction at a time decides on a job, beside none that gives the project an allocation.

    Taken before any allocation, so that nobody waits in a circle.
    """
    await tx.execute(_HOLDING, f"job {job_id}", f"allocations of {project_id}")
