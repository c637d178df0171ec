"""Builders, so that a test says only what it is about."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from aifn_accounting.actions import budget, projects, usage
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import reads
from aifn_accounting.store.reads import Standing
from aifn_accounting.store.usage import charge_messages
from aifn_common.database import Database, transaction
from aifn_common.kafka import Rejected
from aifn_events.access import AwardGranted
from aifn_events.placement import JobClosed, JobPlaced
from aifn_events.registry import MachineDescribed
from aifn_events.usage import UsageReported

START = datetime(2026, 11, 21, 9, tzinfo=UTC)
GPU = "lumi/lumi-g/gpu-time"
CPU = "lumi/lumi-c/node-time"
HOUR = 3600
GRANTED = 1_000_000


def hours(count: float) -> timedelta:
    """A stretch of time."""
    return timedelta(hours=count)


def award(project: str = "p1", amount: int = GRANTED, **values: Any) -> AwardGranted:
    """An award of slice-seconds on LUMI-G, active from START for two months."""
    line = {"machine_id": "lumi", "partition_id": "lumi-g", "resource": values.pop("resource", GPU), "amount": amount}
    return AwardGranted.example(
        **{
            "award_id": f"award-{project}",
            "project_id": project,
            "lines": [line],
            "starts_at": START - hours(1),
            "ends_at": START + hours(24 * 60),
        }
        | values
    )


def placed(job: str = "j1", amount: int = 1000, project: str = "p1", **values: Any) -> JobPlaced:
    """A job that asks for budget."""
    return JobPlaced.example(**{"job_id": job, "project_id": project, "amount": amount, "starts_at": START} | values)


def closed(job: str = "j1", segments: int = 1, project: str = "p1", **values: Any) -> JobClosed:
    """A job that is over."""
    return JobClosed.example(job_id=job, project_id=project, segments=segments, **values)


def used(
    job: str = "j1", amount: int | Mapping[str, int] = 600, project: str = "p1", segment: int = 0, **values: Any
) -> UsageReported:
    """A run segment of an hour on one node."""
    start = values.get("started_at", START)
    return UsageReported.example(
        **{
            "local_job_id": f"local-{job}",
            "job_id": job,
            "project_id": project,
            "segment": segment,
            "amounts": {GPU: amount} if isinstance(amount, int) else dict(amount),
            "submitted_at": START,
            "started_at": start,
            "ended_at": start + hours(1),
        }
        | values
    )


async def know_machine(db: Database, **values: Any) -> None:
    """Have the passport of LUMI-G."""
    async with transaction(db) as tx:
        await projects.remember_machine(tx, MachineDescribed.example(**values))


async def grant(db: Database, project: str = "p1", amount: int = GRANTED, **values: Any) -> None:
    """Have a project with an award."""
    async with transaction(db) as tx:
        await projects.open_project_from_award(tx, award(project, amount, **values))


async def hold(db: Database, job: str = "j1", amount: int = 1000, project: str = "p1", **values: Any) -> None:
    """Have a job ask for budget."""
    async with transaction(db) as tx:
        await budget.hold_budget(tx, placed(job, amount, project, **values))


async def close(db: Database, job: str = "j1", segments: int = 1, project: str = "p1") -> None:
    """Have a job end."""
    async with transaction(db) as tx:
        await budget.close_job(tx, closed(job, segments, project))


async def charge(db: Database, settings: AccountingSettings, *events: UsageReported) -> list[Rejected]:
    """Charge records as one batch."""
    async with transaction(db) as tx:
        return list(await usage.charge_usage(tx, events, settings))


async def standing(db: Database, project: str = "p1") -> Standing:
    """The balances of a project's first allocation."""
    found, _ = await reads.list_standings(db, reads.StandingsAsked(project, after=0, most=1, asker="nobody"))
    return found[0]


async def balances(db: Database, project: str = "p1") -> tuple[int, int, int, int]:
    """(available, held, charged, overrun) of a project's first allocation."""
    one = await standing(db, project)
    return (one.available, one.held, one.charged, one.overrun)


async def broken_checks(db: Database) -> list[reads.Check]:
    """Checks of the ledger that fail: none, whatever a test has done. The ledger must not be empty."""
    async with db.acquire() as tx:
        checks = await reads.verify(tx)
    assert checks
    return [one for one in checks if one.differing or one.expected != one.found]


async def announced(db: Database, topic: str | None = None) -> list[Mapping[str, Any]]:
    """What waits in the outbox, oldest first; of a series each of its messages, as they will be sent."""
    found: list[Mapping[str, Any]] = []
    query = "SELECT * FROM outbox WHERE $1::text IS NULL OR topic = $1 ORDER BY seq"
    for row in await db.fetch(query, topic):
        if row["first"] is None:
            found.append(dict(row))
            continue
        for suffix, key, value in await charge_messages(db, row["first"], row["last"]):
            found.append({**dict(row), "event_id": f"{row['event_id']}-{suffix}", "key": key, "value": value})
    return found
