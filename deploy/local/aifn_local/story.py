"""What the demo's people do: ask for awards, broker data, learn, and run jobs, until every job has its end."""

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from aifn_common import clock

from aifn_local.errors import StackError
from aifn_local.people import PATIENCE_SECONDS, Person, Refused
from aifn_local.workload import TraceJob, requested_walltime

LONGEST_WALLTIME_SECONDS = 48 * 3600
PLAYGROUND_GPU_HOURS = 5_000
FAST_LANE_ABOVE, FAST_LANE_MOST = 10_000, 50_000
MOST_PROJECTS = 11
CPU_PROJECT = "lumi-c-weather"
CPU_NODE_HOURS = 2_000


@dataclass(frozen=True)
class Partition:
    """A partition the demo uses, with so many nodes in service: a slice of the machine, so that jobs compete.

    `described` is how many its passport has: the registry takes no report of more in service.
    """

    machine: str
    name: str
    devices_per_node: int
    gpus_per_node: int
    nodes: int
    described: int


PARTITIONS = (
    Partition("lumi", "lumi-g", 8, 4, 36, 2978),
    Partition("marenostrum5", "mn5-acc", 4, 4, 20, 1120),
    Partition("leonardo", "leonardo-booster", 4, 4, 14, 3456),
)
CPU_PARTITION = Partition("lumi", "lumi-c", 0, 0, 4, 2048)


@dataclass(frozen=True)
class Wish:
    """A job as it will be asked for."""

    number: int
    second: int
    project: str
    body: Mapping[str, Any]


@dataclass
class Venture:
    """A group of the workload as a firm: where it wants to compute, what it asks for, what it was given."""

    group: str
    partition: Partition
    jobs: list[TraceJob]
    walltimes: list[int]
    call: str = ""
    gpu_hours: int = 0
    project: str = ""
    application: Mapping[str, Any] = field(default_factory=dict)
    opened_at: datetime | None = None

    @property
    def needed_gpu_hours(self) -> int:
        """What its jobs may take at most, in accounted GPU-hours, rounded up. Above one node a job takes whole ones."""
        per_node = self.partition.devices_per_node
        seconds = sum(
            (job.devices if job.devices <= per_node else -(-job.devices // per_node) * per_node) * walltime
            for job, walltime in zip(self.jobs, self.walltimes, strict=True)
        )
        return -(-seconds * self.partition.gpus_per_node // (per_node * 3600))


def ventures(jobs: Sequence[TraceJob], *, seed: int) -> list[Venture]:
    """Turn the workload's groups into firms: the largest on the two other machines, the rest on LUMI-G.

    Groups beyond the largest ten become one. A source that tells no walltime gets the usual value above
    duration x a seeded factor; that is an assumption, and the demo prints it.
    """
    rng = random.Random(seed)  # noqa: S311 - a workload, not a secret
    grouped: dict[str, list[TraceJob]] = defaultdict(list)
    for job in jobs:
        grouped[job.group].append(job)
    by_size = sorted(grouped.items(), key=lambda one: (-sum(job.devices * job.run_seconds for job in one[1]), one[0]))
    kept, small = by_size[:MOST_PROJECTS], by_size[MOST_PROJECTS:]
    if small:
        kept, small = by_size[: MOST_PROJECTS - 1], by_size[MOST_PROJECTS - 1 :]
        name = "others"
        while name in grouped:
            name = f"more-{name}"
        kept.append((name, [job for _, mine in small for job in mine]))
    homes = [PARTITIONS[1], PARTITIONS[2]]
    found = []
    for place, (group, together) in enumerate(kept):
        partition = homes[place] if place < len(homes) else PARTITIONS[0]
        mine = sorted(together, key=lambda job: (job.submitted_second, job.number))
        walltimes = [_walltime(job, rng) for job in mine]
        found.append(_with_request(Venture(group, partition, mine, walltimes), nearest_above=place == 0))
    return found


def _walltime(job: TraceJob, rng: random.Random) -> int:
    wanted = job.requested_seconds or requested_walltime(job.run_seconds, rng)
    return min(max(wanted, 60), LONGEST_WALLTIME_SECONDS)


def _with_request(venture: Venture, *, nearest_above: bool) -> Venture:
    """Choose the mode by need. None covers 5,001 to 10,000 GPU-hours: there one firm asks for more, others for less."""
    need = venture.needed_gpu_hours
    if need > FAST_LANE_ABOVE or (need > PLAYGROUND_GPU_HOURS and nearest_above):
        venture.call = "aif-fast-lane"
        venture.gpu_hours = min(max(math.ceil(need * 1.05), FAST_LANE_ABOVE + 1), FAST_LANE_MOST)
    else:
        venture.call, venture.gpu_hours = "aif-playground", PLAYGROUND_GPU_HOURS
    return venture


def in_service(firms: Sequence[Venture]) -> dict[str, int]:
    """Nodes by partition: the usual slice, or as many as the largest job of the firms there takes, if it has them."""
    nodes = {one.name: one.nodes for one in (*PARTITIONS, CPU_PARTITION)}
    for firm in firms:
        largest = max((job.devices for job in firm.jobs), default=0)
        needed = -(-largest // firm.partition.devices_per_node)
        nodes[firm.partition.name] = max(nodes[firm.partition.name], min(needed, firm.partition.described))
    return nodes


def application_of(venture: Venture) -> dict[str, Any]:
    """The application a firm hands in."""
    return {
        "call_id": venture.call,
        "title": f"Models of {venture.group}",
        "organisation": {
            "name": f"{venture.group} Oy",
            "kind": "startup",
            "country": "FI",
            "staff": 12,
            "turnover_eur": 900_000,
        },
        "asks": [{"partition_id": venture.partition.name, "gpu_hours": venture.gpu_hours}],
        "months": 2,
        "statements": {"civilian_use": True, "ai_act_compliance": True},
    }


async def wait_for_partitions(person: Person) -> None:
    """Wait until the scheduler knows the passports of the partitions, and what is in service."""
    wanted = {one.name for one in (*PARTITIONS, CPU_PARTITION)}
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        known = await person.pages("scheduler", "/v1/partitions")
        missing = wanted - {one["partition_id"] for one in known if one["observed_at"]}
        if not missing:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise StackError(f"the scheduler heard nothing of {', '.join(sorted(missing))}")
        await asyncio.sleep(0.1)


async def get_award(venture: Venture, pi: Person, access_manager: Person) -> None:
    """Apply and be granted: at once where the check is automatic, by an access manager's word where it is not."""
    application = await pi.post("scheduler", "/v1/applications", application_of(venture), key=f"apply-{venture.group}")
    if application["state"] == "eligible":
        path = f"/v1/applications/{application['application_id']}/award"
        reason = {"reason": "scaling was shown on the test partition"}
        application = await access_manager.post("scheduler", path, reason, key=f"award-{venture.group}")
    venture.application = application
    if application["award"] is None:
        failed = [finding["because"] for finding in application["findings"] if not finding["passed"]]
        raise Refused(409, {"code": "not_eligible", "detail": "; ".join(failed)})
    venture.project = application["award"]["project_id"]
    await pi.eventually("accounting", f"/v1/projects/{venture.project}", f"project {venture.project}")
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while not (await pi.get("accounting", f"/v1/projects/{venture.project}/allocations"))["items"]:
        if asyncio.get_running_loop().time() > deadline:
            raise StackError(f"project {venture.project} got no allocation within {PATIENCE_SECONDS:.0f} s")
        await asyncio.sleep(0.05)
    venture.opened_at = clock.now()


async def try_as_university(applicant: Person) -> Mapping[str, Any]:
    """An application that the rules refuse; the answer names each of them."""
    venture = Venture("university", PARTITIONS[0], [], [], "aif-playground", PLAYGROUND_GPU_HOURS)
    body = application_of(venture)
    body["organisation"] = {**body["organisation"], "name": "A university", "kind": "academia", "staff": 4_000}
    answer: Mapping[str, Any] = await applicant.post("scheduler", "/v1/applications", body, key="apply-university")
    return answer


async def open_cpu_project(manager: Person, pi: str) -> str:
    """A project of the host's own national share, on the CPU partition."""
    body = {"project_id": CPU_PROJECT, "title": "Weather ensembles", "principal_investigator": pi}
    await manager.post("accounting", "/v1/projects", body, key="cpu-project")
    passport = await manager.get("registry", f"/v1/partitions/{CPU_PARTITION.name}")
    now = clock.now()
    grant = {
        "resource": passport["resource"],
        "amount": CPU_NODE_HOURS * int(passport["slice_seconds_per_node_hour"]),
        "unit": "slice-second",
        "pool": "national",
        "starts_at": now.isoformat(),
        "ends_at": (now + timedelta(days=180)).isoformat(),
        "reason": "the host's own weather service",
    }
    await manager.eventually("accounting", f"/v1/projects/{CPU_PROJECT}", "the CPU project")
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        try:
            await manager.post("accounting", f"/v1/projects/{CPU_PROJECT}/allocations", grant, key="cpu-grant")
            return CPU_PROJECT
        except Refused as refused:  # the machine's passport may not have arrived there yet
            if refused.status not in (404, 409, 422) or asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)


def wishes(firms: Sequence[Venture]) -> list[Wish]:
    """Every job of the firms, in the order of submission."""
    found = [
        Wish(
            job.number,
            job.submitted_second,
            firm.project,
            {
                "project_id": firm.project,
                "name": f"{firm.group}-{job.number}",
                "partition_id": firm.partition.name,
                "devices": job.devices,
                "walltime_seconds": walltime,
                "script": f"#!/bin/sh\nsleep {job.run_seconds}\n",
            },
        )
        for firm in firms
        for job, walltime in zip(firm.jobs, firm.walltimes, strict=True)
    ]
    return sorted(found, key=lambda wish: (wish.second, wish.number))


def cpu_wishes(project: str, jobs: Sequence[TraceJob]) -> list[Wish]:
    """The CPU load: a processor of the model is a core."""
    return [
        Wish(
            job.number,
            job.submitted_second,
            project,
            {
                "project_id": project,
                "name": f"ensemble-{job.number}",
                "partition_id": CPU_PARTITION.name,
                "cores": job.devices,
                "walltime_seconds": min(job.requested_seconds or 3600, LONGEST_WALLTIME_SECONDS),
                "script": f"#!/bin/sh\nsleep {job.run_seconds}\n",
            },
        )
        for job in jobs
    ]


async def submit(
    jobs: Sequence[Wish], people: Mapping[str, Person], factor: int, told: Callable[[Mapping[str, Any] | Refused], None]
) -> None:
    """Ask for every job when its moment has come in simulated time, at most eight at once."""
    begin = clock.now()
    at_once = asyncio.Semaphore(8)

    async def ask(wish: Wish) -> None:
        async with at_once:
            try:
                key = f"job-{wish.project}-{wish.number}"
                told(await people[wish.project].post("scheduler", "/v1/jobs", wish.body, key=key))
            except Refused as refused:
                told(refused)

    async with asyncio.TaskGroup() as group:
        for wish in jobs:
            early = (begin + timedelta(seconds=wish.second) - clock.now()).total_seconds()
            if early > 0:
                await asyncio.sleep(early / factor)
            group.create_task(ask(wish))


async def broker_data(steward: Person, pi: Person, project: str) -> list[Mapping[str, Any]]:
    """Describe an open and a personal dataset, and ask for both: a rule decides the first, a person the second."""
    common = {"description": "made for the demo", "grade": "open", "contact": "datalab@lumi-aif.example"}
    datasets = [
        {"dataset_id": "demo-speech", "title": "Finnish speech", "licence": "CC-BY-4.0", "sensitivity": "open"},
        {
            "dataset_id": "demo-voices",
            "title": "Voices of known speakers",
            "licence": "LicenseRef-agreement",
            "sensitivity": "personal",
            "grade": "industrial",
            "legal_basis": "consent",
        },
    ]
    answers: list[Mapping[str, Any]] = []
    for dataset in datasets:
        name = str(dataset["dataset_id"])
        body = {**common, "residency": ["FI"], "location": f"s3://lumi-o/{name}/", "size_bytes": 10**9, **dataset}
        await steward.post("datalab", "/v1/datasets", body, key=f"describe-{name}")
        wish = {"dataset_id": name, "project_id": project, "purpose": "train a speech model", "legal_basis": "consent"}
        answers.append(await _ask_for_data(steward, pi, wish, name))
    return answers


async def _ask_for_data(steward: Person, pi: Person, wish: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        try:
            answer: Mapping[str, Any] = await pi.post("datalab", "/v1/access-requests", wish, key=f"ask-{name}")
            break
        except Refused as refused:  # the project may not have arrived there yet
            if refused.status not in (403, 404) or asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.1)
    if answer["state"] == "pending":
        path = f"/v1/access-requests/{answer['request_id']}/decision"
        answer = await steward.post(
            "datalab", path, {"granted": True, "reason": "agreement signed"}, key=f"grant-{name}"
        )
    return answer


async def suggestions(pi: Person, project: str) -> list[Mapping[str, Any]]:
    """What was suggested to a project because of its award: at least one course, whatever the mode or machine.

    Raises StackError when there is none in good time.
    """
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while True:
        page = await pi.eventually("skills", "/v1/suggestions", f"suggestions for {project}", project_id=project)
        if page["items"]:
            return list(page["items"])
        if asyncio.get_running_loop().time() > deadline:
            raise StackError(f"nothing was suggested to {project} within {PATIENCE_SECONDS:.0f} s")
        await asyncio.sleep(0.05)


async def book_seat(person: Person, course: str) -> Mapping[str, Any]:
    """A seat in the next session of a course."""
    sessions = await person.get("skills", "/v1/sessions", course_id=course)
    session = sessions["items"][0]["session_id"]
    seat: Mapping[str, Any] = await person.post("skills", f"/v1/sessions/{session}/seats", {}, key="seat")
    return seat
