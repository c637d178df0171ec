"""A site with its own database and a clock that moves only when told."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import pytest
from aifn_common import clock
from aifn_common.database import Database, transaction
from aifn_events.base import Event
from aifn_events.catalog import BY_NAME
from aifn_events.placement import JobCancelRequested, JobDispatched
from aifn_events.registry import MachineDescribed, PartitionPassport
from aifn_siteagent import actions, subscribers
from aifn_siteagent.settings import SiteAgentSettings

from tests.support.backends import Backends
from tests.support.settings import settings

E = TypeVar("E", bound=Event)
BEGIN = datetime.fromisoformat("2026-11-21T09:00:00+00:00")
GPU_TIME = "lumi/lumi-g/gpu-time"


@dataclass
class Time:
    """The clock of a test."""

    present: datetime = BEGIN

    def now(self) -> datetime:
        """The present moment."""
        return self.present

    def at(self, seconds: float) -> datetime:
        """Set the clock to so many seconds after the beginning."""
        self.present = BEGIN + timedelta(seconds=seconds)
        return self.present


@dataclass
class Site:
    """One site agent, without its process."""

    db: Database
    time: Time
    settings: SiteAgentSettings

    async def hear(self, event: Event) -> None:
        """Deliver an event as the broker would."""
        for one in subscribers.hears.single:
            if isinstance(event, one.kind):
                await one.handler(event, self.db, self.settings)

    async def tick(self, seconds: float | None = None) -> bool:
        """Follow the batch system, after setting the clock if told so."""
        if seconds is not None:
            self.time.at(seconds)
        async with transaction(self.db) as tx:
            return await actions.follow(tx, self.settings)

    async def told(self, kind: type[E]) -> list[E]:
        """What has been announced of one kind, in order."""
        return [event for event in await self.all_told() if isinstance(event, kind)]

    async def all_told(self) -> list[Event]:
        """Everything that has been announced, in order."""
        found = []
        for row in await self.db.fetch("SELECT event_id, time, topic, value FROM outbox ORDER BY seq"):
            event = BY_NAME[row["topic"]].event.model_validate_json(row["value"])
            found.append(event.model_copy(update={"id": row["event_id"], "time": row["time"]}))
        return found


def passport(partition_id: str = "lumi-g", *, nodes: int | None = 4, units: int = 64) -> PartitionPassport:
    """A partition as the registry describes it."""
    known = MachineDescribed.example().partitions[0]
    kind = "gpu-time" if partition_id == "lumi-g" else "node-time"
    return known.model_copy(
        update={
            "partition_id": partition_id,
            "nodes": nodes,
            "units_per_node": units,
            "resource": f"lumi/{partition_id}/{kind}",
        }
    )


def dispatched(job_id: str = "job-1", **values: object) -> JobDispatched:
    """A job of one node for an hour that sleeps for 3000 seconds, unless `values` say otherwise."""
    return JobDispatched.example(**{"job_id": job_id, "slices": 64, **values})


def cancelled(job_id: str = "job-1", **values: object) -> JobCancelRequested:
    """Somebody wants a job to stop."""
    return JobCancelRequested.example(**{"job_id": job_id, **values})


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clock of this process, standing still at the beginning."""
    made = Time()
    monkeypatch.setattr(clock, "now", made.now)
    return made


@pytest.fixture
async def new_site(backends: Backends, time: Time) -> AsyncIterator[Site]:
    """A site that has heard nothing yet."""
    async with backends.database("aifn_siteagent") as db:
        yield Site(db, time, settings(SiteAgentSettings, machine="lumi"))


@pytest.fixture
async def site(new_site: Site) -> Site:
    """A site whose machine was described: four nodes of 64 slices in lumi-g."""
    await new_site.hear(MachineDescribed.example(partitions=[passport()]))
    return new_site
