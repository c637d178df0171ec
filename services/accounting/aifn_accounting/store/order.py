"""Locks beside the rows, so that the event log's order is the order in which things took effect."""

from aifn_common.database import Transaction
from aifn_events.vocabulary import JobId, ProjectId

# Whoever takes the second waits for a batch of usage, and not for one another.
_LOCK_USAGE = "SELECT pg_advisory_xact_lock(7075616765)"
_BESIDE_USAGE = "SELECT pg_advisory_xact_lock_shared(7075616765)"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_HOLDING = """
SELECT pg_advisory_xact_lock(hashtextextended($1, 0)), pg_advisory_xact_lock_shared(hashtextextended($2, 0))"""


async def lock_usage(tx: Transaction) -> None:
    """Be the only one who writes usage until the end. Taken before any allocation.

    It makes numbers follow the order of commits, and a correction that moves a record to another project can never meet
    the record itself in another transaction.
    """
    await tx.execute(_LOCK_USAGE)


async def beside_usage(tx: Transaction) -> None:
    """Change what usage is charged by: no batch that began before may end after. Taken before pools and allocations."""
    await tx.execute(_BESIDE_USAGE)


async def open_in_project(tx: Transaction, project_id: ProjectId) -> None:
    """Give a project an allocation: no hold that did not see it may end after."""
    await tx.execute(_LOCK, _allocations(project_id))


async def lock_job(tx: Transaction, job_id: JobId) -> None:
    """Let one transaction at a time decide on a job. Taken before any allocation, so that nobody waits in a circle."""
    await tx.execute(_LOCK, _job(job_id))


async def hold_in_project(tx: Transaction, job_id: JobId, project_id: ProjectId) -> None:
    """`lock_job`, beside nobody who gives the project an allocation."""
    await tx.execute(_HOLDING, _job(job_id), _allocations(project_id))


def _job(job_id: JobId) -> str:
    return f"job {job_id}"


def _allocations(project_id: ProjectId) -> str:
    return f"allocations of {project_id}"
