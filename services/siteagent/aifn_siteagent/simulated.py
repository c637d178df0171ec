"""The one module that knows the simulated batch system: what it would do, as pure rules without clock or database.

Policy: first come, first served, and any later job that fits now may pass one that does not (first-fit backfill,
without reservations: whoever plans ahead does so before a job is sent here). A job on one node takes a share of the
node where it leaves least free; a job on more than one takes whole idle nodes. Everything happens on whole seconds;
at one instant ends come first, then cancellations, then starts.
"""

import hashlib
import heapq
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from aifn_siteagent.domain import (
    Ended,
    Happening,
    Job,
    Kind,
    Occupancy,
    Outcome,
    Partition,
    SegmentEnded,
    Started,
)

BACKEND = "simulated"
LONGEST_SECONDS = 10 * 366 * 86_400
WITHDRAWN = "its partition was withdrawn before it could start"
_SLEEP = re.compile(r"^[ \t]*sleep[ \t]+([0-9]+)[ \t]*$", re.MULTILINE | re.ASCII)
_EXIT = re.compile(r"^[ \t]*exit[ \t]+([0-9]{1,3})[ \t]*$", re.MULTILINE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Conduct:
    """What a script would do if nothing stopped it."""

    run_seconds: int
    exit_code: int


def read_script(script: str) -> Conduct:
    r"""Foresee a script: it takes as long as its `sleep N` lines say, and ends as its first `exit N` line says.

    >>> read_script("#!/bin/sh\nsleep 3000\n")
    Conduct(run_seconds=3000, exit_code=0)
    >>> read_script("sleep 10\nsleep 5\nexit 3")
    Conduct(run_seconds=15, exit_code=3)
    >>> read_script("hostname")
    Conduct(run_seconds=0, exit_code=0)
    """
    # A number of more digits than the limit has cannot be below it, and must not reach int().
    naps = (LONGEST_SECONDS if len(digits.lstrip("0")) > 9 else int(digits) for digits in _SLEEP.findall(script))
    exits = _EXIT.search(script)
    return Conduct(min(sum(naps), LONGEST_SECONDS), int(exits[1]) & 0xFF if exits else 0)


def requeue_after(job_id: str, planned_seconds: int, *, per_mille: int, seed: str) -> int | None:
    """After how many seconds of its first run a job loses its node and is queued again; None: it is spared.

    The choice depends on the seed and the job's name only, so that a run can be repeated. `planned_seconds` is how
    long the run would last; a run too short to be cut is spared.
    """
    drawn = int.from_bytes(hashlib.sha256(f"{seed}|{job_id}".encode()).digest()[:8], "big")
    if planned_seconds < 2 or drawn % 1000 >= per_mille:
        return None
    return 1 + drawn // 1000 % (planned_seconds - 1)


@dataclass(frozen=True, slots=True)
class Advance:
    """What became of a partition: jobs still alive, those of them that changed, and all that happened, in order."""

    alive: Sequence[Job]
    changed: Sequence[Job]
    happenings: Sequence[Happening]


def advance(
    partition: Partition, jobs: Iterable[Job], *, since: datetime, until: datetime, nodes_in_service: int
) -> Advance:
    """Follow a partition from `since` (exclusive) to `until` (inclusive), event by event.

    Two steps in a row give exactly what one step over both gives.

    Args:
        jobs: all that live in this partition, as they stood at `since`, and those submitted after it.
        nodes_in_service: from `until` on; a job on a node that leaves service runs to its end.
    """
    system = _System(partition, jobs, since)
    system.run(until)
    if nodes_in_service != partition.nodes_in_service:
        system.resize(nodes_in_service, until)
        system.run(until)
    changed = [job for number, job in system.jobs.items() if number in system.changed]
    return Advance(list(system.jobs.values()), changed, system.happenings)


def turn_away(done: Advance, at: datetime) -> Advance:
    """End as refused whatever waits in a withdrawn partition at an instant: it would wait for ever.

    What runs goes on; a job that lost its node and waits again is refused with the segments it has run.
    """
    away = [job for job in done.alive if job.started_at is None and job.submitted_at <= at]
    gone = {job.local_job_id for job in away}
    return Advance(
        [job for job in done.alive if job.local_job_id not in gone],
        [job for job in done.changed if job.local_job_id not in gone],
        [*done.happenings, *(Ended(job, "refused", at, job.segment, WITHDRAWN) for job in away)],
    )


def occupancy(partition: Partition, jobs: Iterable[Job], *, at: datetime) -> Occupancy:
    """How full a partition is at an instant, from all its live jobs; those submitted later are not counted."""
    here = [job for job in jobs if job.submitted_at <= at]
    room = _room(partition, partition.nodes_in_service, here)
    running = sum(job.started_at is not None for job in here)
    return Occupancy(partition.nodes_in_service, room.nodes_idle, room.slices_idle, running, len(here) - running)


class _System:
    """The queue and the nodes of one partition while they are being followed."""

    def __init__(self, partition: Partition, jobs: Iterable[Job], since: datetime) -> None:
        self.jobs = {job.local_job_id: job for job in jobs}
        self.changed: set[int] = set()
        self.happenings: list[Happening] = []
        self._partition = partition
        self._room = _room(partition, partition.nodes_in_service, self.jobs.values())
        self._ends = [(job.ends_at, number) for number, job in self.jobs.items() if job.ends_at is not None]
        self._cancels = [(job.cancel_at, number) for number, job in self.jobs.items() if job.cancel_at is not None]
        in_line = sorted((job.submitted_at, number) for number, job in self.jobs.items() if job.started_at is None)
        self._waiting = [number for submitted_at, number in in_line if submitted_at <= since]
        self._arrivals = [(submitted_at, number) for submitted_at, number in in_line if submitted_at > since]
        heapq.heapify(self._ends)
        heapq.heapify(self._cancels)

    def run(self, until: datetime) -> None:
        """Let everything happen that happens up to an instant."""
        while (instant := self._next()) is not None and instant <= until:
            while self._ends and self._ends[0][0] <= instant:
                number = heapq.heappop(self._ends)[1]
                if number in self.jobs:  # else it was cancelled before
                    self._end_segment(self.jobs[number], instant)
            while self._cancels and self._cancels[0][0] <= instant:
                number = heapq.heappop(self._cancels)[1]
                if number in self.jobs:
                    self._cancel(self.jobs[number], instant)
            while self._arrivals and self._arrivals[0][0] <= instant:
                self._waiting.append(heapq.heappop(self._arrivals)[1])
            self._start_what_fits(instant)

    def resize(self, nodes_in_service: int, instant: datetime) -> None:
        """Change the number of nodes in service."""
        self._room = _room(self._partition, nodes_in_service, self.jobs.values())
        self._start_what_fits(instant)

    def _next(self) -> datetime | None:
        return min((heap[0][0] for heap in (self._ends, self._cancels, self._arrivals) if heap), default=None)

    def _start_what_fits(self, instant: datetime) -> None:
        left: list[int] = []
        too_many_nodes = too_many_slices = None
        for number in self._waiting:
            job = self.jobs.get(number)
            if job is None:
                continue
            # What did not fit a moment ago fits no better now: this keeps a long queue cheap.
            if job.nodes > 1:
                hopeless = too_many_nodes is not None and job.nodes >= too_many_nodes
            else:
                hopeless = too_many_slices is not None and job.slices >= too_many_slices
            on_nodes = None if hopeless else self._room.find(job.nodes, job.slices)
            if on_nodes is not None:
                self._start(job, on_nodes, instant)
                continue
            left.append(number)
            if job.nodes > 1:
                too_many_nodes = min(job.nodes, too_many_nodes or job.nodes)
            else:
                too_many_slices = min(job.slices, too_many_slices or job.slices)
        self._waiting = left

    def _start(self, job: Job, on_nodes: tuple[int, ...], instant: datetime) -> None:
        self._room.take(on_nodes, job.slices // job.nodes)
        if job.segment == 0 and job.requeue_after_seconds is not None:
            seconds = job.requeue_after_seconds
        else:
            seconds = min(job.run_seconds, job.walltime_seconds)
        started = replace(job, started_at=instant, ends_at=instant + timedelta(seconds=seconds), on_nodes=on_nodes)
        self._keep(started)
        heapq.heappush(self._ends, (instant + timedelta(seconds=seconds), job.local_job_id))
        self.happenings.append(Started(started, instant))

    def _end_segment(self, job: Job, instant: datetime) -> None:
        if job.segment == 0 and job.requeue_after_seconds is not None:
            self._stop(job, instant, "REQUEUED", kind="requeued")
            self._keep(replace(job, segment=1, submitted_at=instant, started_at=None, ends_at=None, on_nodes=()))
            heapq.heappush(self._arrivals, (instant, job.local_job_id))
            return
        outcome, state, detail = _verdict(job)
        self._stop(job, instant, state)
        self._finish(job, outcome, instant, segments=job.segment + 1, detail=detail)

    def _cancel(self, job: Job, instant: datetime) -> None:
        ran = job.started_at is not None
        if ran:
            self._stop(job, instant, "CANCELLED")
        self._finish(job, "cancelled", instant, segments=job.segment + ran, detail=job.cancel_reason)

    def _stop(self, job: Job, instant: datetime, state: str, *, kind: Kind = "run") -> None:
        if job.started_at is None:
            raise AssertionError(f"job {job.local_job_id} stops without having started")
        self._room.give_back(job.on_nodes, job.slices // job.nodes)
        self.happenings.append(SegmentEnded(job, kind, state, job.started_at, instant))

    def _finish(self, job: Job, outcome: Outcome, instant: datetime, *, segments: int, detail: str) -> None:
        del self.jobs[job.local_job_id]
        self.happenings.append(Ended(job, outcome, instant, segments, detail))

    def _keep(self, job: Job) -> None:
        self.jobs[job.local_job_id] = job
        self.changed.add(job.local_job_id)


def _verdict(job: Job) -> tuple[Outcome, str, str]:
    if job.run_seconds > job.walltime_seconds:
        return "timeout", "TIMEOUT", f"reached its walltime of {job.walltime_seconds} s"
    if job.exit_code:
        return "failed", "FAILED", f"its script ended with exit code {job.exit_code}"
    return "completed", "COMPLETED", ""


def _room(partition: Partition, nodes_in_service: int, jobs: Iterable[Job]) -> "_Room":
    running = [job for job in jobs if job.started_at is not None]
    return _Room(nodes_in_service, partition.units_per_node, running)


class _Room:
    """Free slices node by node. Nodes from `in_service` on are taken into account, but never offered."""

    def __init__(self, in_service: int, units_per_node: int, running: Iterable[Job]) -> None:
        running = list(running)
        highest = max((node for job in running for node in job.on_nodes), default=-1)
        self._in_service = in_service
        self._units = units_per_node
        self._free = [units_per_node] * max(in_service, highest + 1)
        for job in running:
            for node in job.on_nodes:
                self._free[node] -= job.slices // job.nodes
        self.nodes_idle = 0
        self.slices_idle = 0
        # By number of free slices, the nodes that have (or once had) so many: entries out of date are dropped when met.
        self._by_free: dict[int, list[int]] = {}
        for node in range(in_service):
            self._enter(node)

    def find(self, nodes: int, slices: int) -> tuple[int, ...] | None:
        """Nodes on which a job fits now, or None: the tightest node for a share, the first idle ones for more."""
        if nodes > 1:
            return self._find_idle(nodes)
        for free in sorted(free for free in self._by_free if free >= slices):
            node = self._first_with(free)
            if node is not None:
                return (node,)
        return None

    def take(self, nodes: Iterable[int], slices_each: int) -> None:
        """Occupy slices on each of the nodes."""
        self._change(nodes, -slices_each)

    def give_back(self, nodes: Iterable[int], slices_each: int) -> None:
        """Free slices on each of the nodes."""
        self._change(nodes, slices_each)

    def _change(self, nodes: Iterable[int], slices_each: int) -> None:
        for node in nodes:
            if node < self._in_service:
                self.slices_idle -= self._free[node]
                self.nodes_idle -= self._free[node] == self._units
            self._free[node] += slices_each
            if node < self._in_service:
                self._enter(node)

    def _enter(self, node: int) -> None:
        free = self._free[node]
        self.slices_idle += free
        self.nodes_idle += free == self._units
        heapq.heappush(self._by_free.setdefault(free, []), node)

    def _first_with(self, free: int) -> int | None:
        heap = self._by_free[free]
        while heap and self._free[heap[0]] != free:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def _find_idle(self, nodes: int) -> tuple[int, ...] | None:
        if nodes > self.nodes_idle:
            return None
        heap = self._by_free[self._units]  # it exists: an idle node has entered it
        found: list[int] = []
        while len(found) < nodes:
            node = heapq.heappop(heap)
            if self._free[node] == self._units and (not found or found[-1] != node):
                found.append(node)
        for node in found:
            heapq.heappush(heap, node)
        return tuple(found)
