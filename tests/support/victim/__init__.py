"""A small service to be mistreated: it has every kind of subscription and writes down each effect it has.

In one process a test tells it through `Behaviour` how to fail; as a process of its own (`python -m
tests.support.victim api|worker|migrate`) it is told by its settings.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from aifn_common.database import Database, Transaction
from aifn_common.errors import Refusal
from aifn_common.inbox import deliver_once
from aifn_common.kafka import Db, Rejected, Subscriptions
from aifn_common.outbox import announce, announce_all
from aifn_common.service import Service, Timer
from aifn_common.settings import ServiceSettings
from aifn_common.web import Tx, Who, make_router
from aifn_events.base import Event
from aifn_events.placement import (
    BudgetHeld,
    BudgetRefused,
    JobCancelRequested,
    JobClosed,
    JobEnded,
    JobPlaced,
    JobStarted,
)
from aifn_events.usage import UsageCharged, UsageReported
from fastapi import Response
from pydantic import BaseModel, Field

PACKAGE = "tests.support.victim"
Misdeed = Callable[[], Awaitable[None]]


class VictimSettings(ServiceSettings):
    """How the process misbehaves."""

    handler_seconds: float = Field(default=0, ge=0, description="how long each handler sleeps before its effect")
    die_at_commit: str = Field(default="", description="a file: kill -9 itself before an offset commit, once")


class Tired(Refusal):
    """The victim's own refusal."""

    code = "tired"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} is too much today")
        self.asked = 7


@dataclass
class Behaviour:
    """What happens when a job or a usage record of some name is handled, before its effect."""

    misdeeds: dict[str, Misdeed] = field(default_factory=dict)
    attempts: list[str] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)

    async def meet(self, name: str) -> None:
        """Note the attempt and do the misdeed planned for it, if any."""
        self.attempts.append(name)
        misdeed = self.misdeeds.get(name)
        if misdeed is not None:
            await misdeed()


def failing(times: int, fault: Exception) -> Misdeed:
    """A misdeed that raises so many times, then heals."""
    left = times

    async def fail() -> None:
        nonlocal left
        if left > 0:
            left -= 1
            raise fault

    return fail


def sleeping(seconds: float) -> Misdeed:
    """A misdeed that takes time."""

    async def sleep() -> None:
        await asyncio.sleep(seconds)

    return sleep


class Note(BaseModel):
    """A request of the victim's API."""

    job_id: str = Field(max_length=60)


def make_victim(
    behaviour: Behaviour | None = None,
    *,
    name: str | None = None,
    kinds: Sequence[type[Event]] = (JobPlaced, UsageReported),
    timers: Sequence[Timer] = (),
    max_records: int = 5000,
) -> Service:
    """A service that hears these kinds; `UsageReported` in batches, the others one by one.

    Its name, and with it its consumer groups, is new each time unless given.
    """
    does = behaviour or Behaviour()
    hears = Subscriptions(name or f"victim-{secrets.token_hex(4)}")
    for kind in kinds:
        if kind is UsageReported:
            hears.in_batches(UsageReported, max_records=max_records)(_batch_handler(does))
        else:
            hears(kind)(_handler(kind, does))
    return Service(
        name=hears.service,
        package=PACKAGE,
        hears=hears,
        settings=VictimSettings,
        routers=[_router()],
        timers=timers,
    )


def _handler(kind: type[Event], does: Behaviour) -> Any:
    async def on_event(event: Any, db: Db, settings: VictimSettings) -> None:
        await does.meet(event.job_id)

        async def take_effect(tx: Transaction, event: Any) -> None:
            await asyncio.sleep(settings.handler_seconds)
            await tx.execute(_EFFECT, kind.topic, event.job_id, settings.instance)
            if kind is JobPlaced:
                held = {"project_id": event.project_id, "job_id": event.job_id, "amount": event.amount}
                await announce(tx, BudgetHeld.example(**held))

        await deliver_once(db, event, take_effect)

    return on_event


_EFFECT = "INSERT INTO effect (topic, what, worker) VALUES ($1, $2, $3)"
_CHARGE = """
WITH new AS (
    INSERT INTO charge SELECT DISTINCT ON (what) * FROM unnest($1::text[], $2::bigint[]) AS given (what, amount)
    ORDER BY what ON CONFLICT DO NOTHING RETURNING what, amount
), summed AS (UPDATE total SET amount = total.amount + (SELECT coalesce(sum(amount), 0) FROM new))
SELECT what FROM new"""


def _batch_handler(does: Behaviour) -> Any:
    async def on_usage(events: Sequence[UsageReported], tx: Transaction, settings: VictimSettings) -> list[Rejected]:
        does.batches.append([event.local_job_id for event in events])
        rejected = []
        for event in events:
            try:
                await does.meet(event.local_job_id)
            except Refusal as refusal:
                rejected.append(Rejected(event, refusal))
        refused = {id(one.event) for one in rejected}
        good = [event for event in events if id(event) not in refused]
        names = [event.local_job_id for event in good]
        await asyncio.sleep(settings.handler_seconds)
        rows = await tx.fetch(_CHARGE, names, [sum(event.amounts.values()) for event in good])
        new = {row["what"] for row in rows}
        await announce_all(
            tx, [UsageCharged.example(local_job_id=name) for name in dict.fromkeys(names) if name in new]
        )
        return rejected

    return on_usage


def _router() -> Any:
    router = make_router()

    @router.post("/jobs", status_code=201)
    async def note_job(note: Note, tx: Tx, who: Who, response: Response) -> Annotated[Note, "what was noted"]:
        who.must("job.submit", project="aif-2026-0117")
        await tx.execute(_EFFECT, "http", note.job_id, who.subject)
        await announce(tx, JobPlaced.example(job_id=note.job_id))
        response.headers["location"] = f"/v1/jobs/{note.job_id}"
        return note

    @router.get("/jobs")
    async def list_jobs(tx: Tx, who: Who) -> list[Note]:
        who.must("job.read", project="aif-2026-0117")
        return [Note(job_id=row["what"]) for row in await tx.fetch("SELECT what FROM effect ORDER BY id")]

    return router


async def effects(db: Database, topic: str = JobPlaced.topic) -> list[str]:
    """What had an effect, in order; a doubled effect stands there twice."""
    return [row["what"] for row in await db.fetch("SELECT what FROM effect WHERE topic = $1 ORDER BY id", topic)]


MANY = (JobPlaced, JobStarted, JobEnded, JobClosed, BudgetHeld, BudgetRefused, JobCancelRequested)
"""Kinds with a job id, for a service with many subscriptions."""
