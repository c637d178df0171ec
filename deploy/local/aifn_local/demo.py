"""The main job from end to end: one factory on a real broker and a real database, until every job has its end."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from aifn_common.clock import SimulatedClock
from aifn_events.access import AwardGranted

from aifn_local import story
from aifn_local.errors import StackError
from aifn_local.factory import Factory, Site
from aifn_local.fleet import Fleet
from aifn_local.invariants import Check, Tables, check
from aifn_local.memory import Peak
from aifn_local.people import Person, Refused, sign_in
from aifn_local.stack import StackState, status
from aifn_local.story import LONGEST_WALLTIME_SECONDS
from aifn_local.workload import TraceJob, generate

FACTORY = "lumi-aif"
ARRIVAL_SECONDS = 70
ALL_SECONDS = 110
REST_SECONDS = 240.0
CPU_JOBS = 100
OWN_PACE = "first job asked for"


@dataclass(frozen=True)
class Workload:
    """The jobs of a run, in words where they come from, and what they ask for so many of."""

    jobs: Sequence[TraceJob]
    origin: str
    unit: str = "processor"


@dataclass
class Progress:
    """How far the run is; `say` is called whenever something changes."""

    say: Callable[["Progress"], None]
    stage: str = "starting"
    wanted: int = 0
    submitted: int = 0
    refused: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def at(self, stage: str) -> None:
        """Enter the next stage."""
        self.stage = stage
        self.say(self)


@dataclass
class Outcome:
    """All that the report tells."""

    workload: Workload
    factor: int
    firms: list[story.Venture]
    nodes: Mapping[str, int] = field(default_factory=lambda: story.in_service(()))
    university: Mapping[str, Any] = field(default_factory=dict)
    access: list[Mapping[str, Any]] = field(default_factory=list)
    suggestions: list[Mapping[str, Any]] = field(default_factory=list)
    seat: Mapping[str, Any] = field(default_factory=dict)
    jobs: list[Mapping[str, Any]] = field(default_factory=list)
    refused_at_submission: Counter[str] = field(default_factory=Counter)
    ledger: list[Mapping[str, Any]] = field(default_factory=list)
    first_job: list[tuple[str, float]] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    verified: Mapping[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: int = 0
    restarts: Mapping[str, int] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether every invariant holds."""
        return bool(self.checks) and all(one.holds for one in self.checks)


def factor_for(jobs: Sequence[TraceJob]) -> int:
    """So many simulated seconds in a real one that all jobs arrive, and would end if none waited, in good time."""
    last = max((job.submitted_second for job in jobs), default=0)
    end = max((job.submitted_second + min(job.run_seconds, LONGEST_WALLTIME_SECONDS) for job in jobs), default=0)
    return max(60, math.ceil(last / ARRIVAL_SECONDS), math.ceil(end / ALL_SECONDS))


def sites(nodes: Mapping[str, int]) -> list[Site]:
    """The machines of a run, with so many nodes of each partition in service."""
    machines: dict[str, dict[str, int]] = {}
    for one in (*story.PARTITIONS, story.CPU_PARTITION):
        machines.setdefault(one.machine, {})[one.name] = nodes[one.name]
    return [Site(machine, partitions) for machine, partitions in machines.items()]


@asynccontextmanager
async def running_factory(
    stack: StackState, logs: Path, factor: int, nodes: Mapping[str, int] | None = None
) -> AsyncIterator[tuple[Factory, Fleet]]:
    """A factory whose every process runs and is ready; whatever ends by itself is started again.

    `nodes`: in service, by partition; without it the usual slice of each machine.
    """
    factory = Factory.on(stack, FACTORY, sites(nodes or story.in_service(())))
    now = datetime.now(UTC).replace(microsecond=0)
    factory.clock = SimulatedClock(epoch=now, started=now, factor=factor)
    await factory.prepare()
    await _must_be_empty(Tables(factory.databases))
    fleet = Fleet(logs)
    watching: asyncio.Task[None] | None = None
    try:
        for program in factory.programs():
            fleet.start(program)
        await fleet.wait_ready()
        watching = asyncio.create_task(fleet.watch())
        yield factory, fleet
    finally:
        if watching is not None:
            watching.cancel()
        await asyncio.to_thread(fleet.stop)


async def _must_be_empty(tables: Tables) -> None:
    """Servers that were there before may hold another run, whose jobs would be counted with ours."""
    if await tables.value("scheduler", "SELECT count(*) FROM application"):
        raise StackError("the database server already holds a factory's data: give the demo an empty one")


class Demo:
    """One run on a factory that is ready."""

    def __init__(
        self,
        factory: Factory,
        fleet: Fleet,
        stack: StackState,
        workload: Workload,
        progress: Progress,
        *,
        seed: int = 1,
    ) -> None:
        assert factory.clock is not None
        self._factory = factory
        self._fleet = fleet
        self._workload = workload
        self._seed = seed
        self._progress = progress
        self.tables = Tables(factory.databases)
        nodes = {name: count for site in factory.sites for name, count in site.nodes.items()}
        self.outcome = Outcome(workload, factory.clock.factor, story.ventures(workload.jobs, seed=seed), nodes)
        self._peak = Peak(lambda: [*fleet.pids(), *_stack_pids(stack)])

    async def run(self) -> Outcome:
        """The whole story. Raises StackError when it does not come to rest."""
        outcome = self.outcome
        watching = asyncio.create_task(self._peak.watch())
        try:
            async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
                await self._tell(http)
        finally:
            watching.cancel()
        outcome.peak_mb = self._peak.mb
        outcome.restarts = self._fleet.restarts()
        return outcome

    async def _tell(self, http: httpx.AsyncClient) -> None:
        outcome, progress = self.outcome, self._progress
        began = time.monotonic()
        progress.at("awards")
        pis = await self._awards(http)
        progress.at("data and skills")
        await self._data_and_skills(http, outcome.firms[-1], pis)
        outcome.seconds["awards, data, skills"] = time.monotonic() - began
        began = time.monotonic()
        progress.at("jobs")
        await self._jobs(pis)
        outcome.seconds["jobs"] = time.monotonic() - began
        began = time.monotonic()
        progress.at("coming to rest")
        await self._rest()
        outcome.seconds["coming to rest"] = time.monotonic() - began
        began = time.monotonic()
        progress.at("report")
        await self._look_back(http)
        outcome.seconds["report"] = time.monotonic() - began

    async def _awards(self, http: httpx.AsyncClient) -> dict[str, Person]:
        outcome = self.outcome
        access_manager = await sign_in(http, self._factory, "access-manager")
        await story.wait_for_partitions(access_manager)
        pis: dict[str, Person] = {}

        async def award(firm: story.Venture) -> None:
            pi = await sign_in(http, self._factory, "applicant", f"pi-{firm.group}")
            await story.get_award(firm, pi, access_manager)
            pis[firm.project] = pi

        async with asyncio.TaskGroup() as group:
            for firm in outcome.firms:
                group.create_task(award(firm))
        applicant = await sign_in(http, self._factory, "applicant", "pi-university")
        outcome.university = await story.try_as_university(applicant)
        manager = await sign_in(http, self._factory, "allocation-manager")
        cpu_pi = await sign_in(http, self._factory, "applicant", "pi-weather")
        pis[await story.open_cpu_project(manager, cpu_pi.subject)] = cpu_pi
        return pis

    async def _data_and_skills(self, http: httpx.AsyncClient, firm: story.Venture, pis: Mapping[str, Person]) -> None:
        steward = await sign_in(http, self._factory, "data-steward")
        pi = pis[firm.project]
        self.outcome.access = await story.broker_data(steward, pi, firm.project)
        for project in (one.project for one in self.outcome.firms):
            self.outcome.suggestions += await story.suggestions(pis[project], project)
        self.outcome.seat = await story.book_seat(pi, "rocm-porting")

    async def _jobs(self, pis: Mapping[str, Person]) -> None:
        outcome, progress = self.outcome, self._progress
        cpu = generate(self._seed, CPU_JOBS, largest=128, groups=1, rate=_rate(self._workload.jobs))
        wishes = sorted(
            [*story.wishes(outcome.firms), *story.cpu_wishes(story.CPU_PROJECT, cpu)],
            key=lambda wish: (wish.second, wish.number),
        )
        progress.wanted = len(wishes)

        def told(answer: Mapping[str, Any] | Refused) -> None:
            if isinstance(answer, Refused):
                progress.refused += 1
                outcome.refused_at_submission[str(answer.problem.get("code"))] += 1
            else:
                progress.submitted += 1

        counting = asyncio.create_task(self._count())
        try:
            await story.submit(wishes, pis, outcome.factor, told)
            await self._until("every job is closed", self._all_closed)
        finally:
            counting.cancel()

    async def _all_closed(self) -> bool:
        counts = self._progress.counts = await self.tables.job_counts()
        self._progress.say(self._progress)
        return sum(counts[name] for name in ("queued", "placed", "dispatched", "running")) == 0

    async def _count(self) -> None:
        while True:
            await self._all_closed()
            await asyncio.sleep(1)

    async def _rest(self) -> None:
        await self._until("nothing is on its way any more", self.tables.quiet)

    async def _until(self, what: str, reached: Callable[[], Awaitable[bool]]) -> None:
        """Wait for it as long as something moves. Raises StackError when nothing has for REST_SECONDS."""
        before, deadline = self._progress.counts, time.monotonic() + REST_SECONDS
        while not await reached():
            if self._progress.counts != before:
                before, deadline = self._progress.counts, time.monotonic() + REST_SECONDS
            if time.monotonic() > deadline:
                raise StackError(f"nothing has moved for {REST_SECONDS:.0f} s, and it is not so that {what}")
            await asyncio.sleep(0.5)

    async def _look_back(self, http: httpx.AsyncClient) -> None:
        outcome = self.outcome
        auditor = await sign_in(http, self._factory, "auditor")
        outcome.jobs = list(await auditor.pages("scheduler", "/v1/jobs"))
        outcome.verified = await auditor.get("accounting", "/v1/ledger/verify")
        outcome.ledger = await ledger_by_project(self.tables)
        outcome.first_job = first_job_steps(outcome)
        outcome.checks = await check(self.tables, jobs_submitted=self._progress.submitted)
        own = outcome.verified
        outcome.checks.append(
            Check("accounting's own verification agrees", bool(own["passed"]), f"{len(own['checks'])} checks by API")
        )
        outcome.checks.append(check_knowledge(outcome))


def check_knowledge(outcome: Outcome) -> Check:
    """That both datasets were granted, and each award led to a course: one on porting, if any is on AMD GPUs."""
    granted = sum(answer["state"] == "granted" for answer in outcome.access)
    caused = [one for one in outcome.suggestions if one["cause"]["topic"] == AwardGranted.topic]
    porting = sum(one["course_id"] == "rocm-porting" for one in caused)
    firms = {firm.project for firm in outcome.firms}
    served = firms & {one["project_id"] for one in caused}
    on_amd = any(firm.partition.name == story.PARTITIONS[0].name for firm in outcome.firms)
    return Check(
        "datasets were granted and courses suggested because of awards",
        granted == len(outcome.access) == 2 and served == firms and (porting > 0 or not on_amd),
        f"{granted} of 2 granted; {len(caused)} courses to {len(served)} of {len(firms)} projects, {porting} on ROCm",
    )


async def ledger_by_project(tables: Tables) -> list[Mapping[str, Any]]:
    """What the ledger moved for each allocation, by kind of transfer, with what is needed to show node-hours."""
    rows = await tables.rows(
        "accounting",
        """
        SELECT a.project_id, a.resource, a.pool, a.granted, a.available, a.charged, a.overrun,
               r.units_per_node, r.gpus_per_node,
               coalesce(sum(t.amount) FILTER (WHERE t.kind = 'hold'), 0)::bigint AS was_held,
               coalesce(sum(t.amount) FILTER (WHERE t.kind = 'release'), 0)::bigint AS was_released
        FROM allocation a JOIN resource r ON r.id = a.resource
        LEFT JOIN ledger_transfer t ON t.allocation_number = a.number
        GROUP BY a.number, r.id ORDER BY a.number""",
    )
    return [dict(row) for row in rows]


def first_job_steps(outcome: Outcome) -> list[tuple[str, float]]:
    """From a complete Playground request to its first running job, step by step, in simulated seconds.

    The firm whose first job started soonest after its application is shown; no step if there is none.
    """
    journeys = [
        _steps(firm, min(mine, key=lambda job: _moment(job["started_at"])))
        for firm in outcome.firms
        if firm.call == "aif-playground"
        and (mine := [job for job in outcome.jobs if job["project_id"] == firm.project and job["started_at"]])
    ]
    return min(journeys, key=lambda steps: sum(took for _, took in steps), default=[])


def _steps(firm: story.Venture, job: Mapping[str, Any]) -> list[tuple[str, float]]:
    assert firm.opened_at is not None
    moments = [
        ("eligibility and award", firm.application["award"]["awarded_at"]),
        ("allocation opened", firm.opened_at.isoformat()),
        (OWN_PACE, job["submitted_at"]),
        ("placed", job["placed_at"]),
        ("budget held, sent to its site", job["dispatched_at"]),
        ("started by its batch system", job["started_at"]),
    ]
    steps, before = [], _moment(firm.application["submitted_at"])
    for name, text in moments:
        after = _moment(text)
        steps.append((name, (after - before).total_seconds()))
        before = after
    return steps


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _rate(jobs: Sequence[TraceJob]) -> float:
    """Of the CPU load: its jobs arrive while the others do. The model's own rate is about one job an hour."""
    span_hours = max(1.0, max((job.submitted_second for job in jobs), default=0) / 3600)
    return CPU_JOBS / span_hours


def _stack_pids(stack: StackState) -> list[int]:
    return [part.pid for part in status(stack.name, stack.home) if part.pid is not None]
