"""How a job gets from its submission to exactly one final state, whatever order the news comes in.

queued -> placed (waits for its budget) -> dispatched (with its site) -> running -> closed with one outcome.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from aifn_common.errors import Refusal

from aifn_scheduler.domain.admission import JobWish

State = Literal["queued", "placed", "dispatched", "running", "closed"]
Outcome = Literal["completed", "failed", "timeout", "cancelled", "refused"]
AT_SITE: tuple[State, ...] = ("dispatched", "running")

_REASONS: dict[Outcome, str] = {
    "completed": "ended by itself",
    "failed": "its own commands failed",
    "timeout": "its walltime was over",
    "cancelled": "it was stopped at its site",
    "refused": "its site did not take it",
}


class AlreadyClosed(Refusal):
    """A job has one final state; nothing that comes later changes it."""

    code = "already_closed"

    def __init__(self, job_id: str, outcome: str) -> None:
        super().__init__(f"{job_id} was closed before as {outcome}")
        self.job_id = job_id
        self.outcome = outcome


class ProjectClosed(Refusal):
    """A project that is over takes no jobs."""

    code = "project_closed"

    def __init__(self, project_id: str) -> None:
        super().__init__(f"project {project_id} is closed")
        self.project_id = project_id


class NotDispatched(Refusal):
    """A site speaks of a job that was never sent to it."""

    code = "not_dispatched"

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"{job_id} was not sent to any site (it is {state})")
        self.job_id = job_id
        self.state = state


class WrongSite(Refusal):
    """A site speaks of a job that was sent to another one."""

    code = "wrong_site"

    def __init__(self, job_id: str, *, sent_to: str, said_by: str) -> None:
        super().__init__(f"{job_id} was sent to {sent_to}, not to {said_by}")
        self.job_id = job_id
        self.sent_to = sent_to
        self.said_by = said_by


@dataclass(frozen=True, slots=True)
class Life:
    """The part of a job that changes. Moments are None until they are known."""

    job_id: str
    state: State
    revision: int = 0
    machine_id: str | None = None
    partition_id: str | None = None
    outcome: Outcome | None = None
    reason: str = ""
    segments: int = 0
    runs: int = 0
    cancel_asked_at: datetime | None = None
    cancel_reason: str = ""
    placed_at: datetime | None = None
    held_at: datetime | None = None
    dispatched_at: datetime | None = None
    started_at: datetime | None = None
    last_started_at: datetime | None = None
    ended_at: datetime | None = None
    closed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands: the wish, what was decided last, and its life so far.

    `place` orders the queue. What it takes (`resource` to `amount`, in slice-seconds) is known once it is placed;
    `planned_start` on `planned_on` is an estimate until then.
    """

    job_id: str
    place: int
    wish: JobWish
    submitted_by: str
    submitted_at: datetime
    life: Life
    resource: str | None = None
    nodes: int | None = None
    slices: int | None = None
    amount: int | None = None
    planned_start: datetime | None = None
    planned_on: str | None = None
    explanation: Mapping[str, Any] | None = None


def dispatch(life: Life, revision: int, held_at: datetime, now: datetime) -> Life:
    """The budget of a placement is held: send the job to its site, or close it if it is no longer wanted.

    `held_at` is accounting's word for when it held the budget. News of an earlier placement, or of one that was
    acted on before, changes nothing.
    """
    if life.state != "placed" or revision != life.revision:
        return life
    held = replace(life, held_at=held_at)
    if held.cancel_asked_at is not None:
        return _close(held, "cancelled", held.cancel_reason, segments=0, now=now)
    return replace(held, state="dispatched", dispatched_at=now)


def refuse(life: Life, revision: int, because: str, now: datetime) -> Life:
    """The budget of a placement was refused, so the job will not run."""
    if life.state != "placed" or revision != life.revision:
        return life
    if life.cancel_asked_at is not None:
        return _close(life, "cancelled", life.cancel_reason, segments=0, now=now)
    return _close(life, "refused", because, segments=0, now=now)


def expire(life: Life, because: str, now: datetime) -> Life:
    """A job that waits can never run any more."""
    return _close(life, "refused", because, segments=0, now=now) if life.state == "queued" else life


def cancel(life: Life, because: str, now: datetime) -> Life:
    """Somebody entitled does not want the job any more. Raises AlreadyClosed, unless it was cancelled before.

    A job that waits is closed at once. One that waits for its budget is closed when the answer is there, so that no
    hold is left behind. One at its site is over only when the site says so.
    """
    if life.state == "closed":
        if life.outcome == "cancelled":
            return life
        raise AlreadyClosed(life.job_id, str(life.outcome))
    if life.cancel_asked_at is not None:
        return life
    asked = replace(life, cancel_asked_at=now, cancel_reason=because)
    return _close(asked, "cancelled", because, segments=0, now=now) if life.state == "queued" else asked


def take_back(life: Life, now: datetime) -> Life:
    """A job that was to go to another factory was cancelled before that one was bound."""
    if life.state == "closed":
        return life
    return _close(life, "cancelled", life.cancel_reason, segments=0, now=now)


def start(life: Life, machine_id: str, partition_id: str, segment: int, started_at: datetime) -> Life:
    """A site began to run the job, or a further segment of it. News that comes after the end only fills in the time.

    Raises: NotDispatched, WrongSite.
    """
    _came_from_its_site(life, machine_id, partition_id)
    first = started_at if segment == 0 or life.started_at is None else life.started_at
    known = replace(life, started_at=first)
    if segment >= life.runs:
        known = replace(known, runs=segment + 1, last_started_at=started_at)
    return known if life.state == "closed" else replace(known, state="running")


def end(
    life: Life,
    machine_id: str,
    partition_id: str,
    outcome: Outcome,
    segments: int,
    ended_at: datetime,
    detail: str,
    now: datetime,
) -> Life:
    """A site will not run the job again. The same word twice changes nothing.

    Raises: NotDispatched, WrongSite; AlreadyClosed, if the site said something else before.
    """
    _came_from_its_site(life, machine_id, partition_id)
    if life.state == "closed":
        if (life.outcome, life.segments, life.ended_at) == (outcome, segments, ended_at):
            return life
        raise AlreadyClosed(life.job_id, str(life.outcome))
    because = detail or (life.cancel_reason if outcome == "cancelled" else "") or _REASONS[outcome]
    return _close(replace(life, ended_at=ended_at), outcome, because, segments=segments, now=now)


def _came_from_its_site(life: Life, machine_id: str, partition_id: str) -> None:
    if life.dispatched_at is None:
        raise NotDispatched(life.job_id, life.state)
    if (life.machine_id, life.partition_id) != (machine_id, partition_id):
        sent_to = f"{life.machine_id}/{life.partition_id}"
        raise WrongSite(life.job_id, sent_to=sent_to, said_by=f"{machine_id}/{partition_id}")


def _close(life: Life, outcome: Outcome, because: str, *, segments: int, now: datetime) -> Life:
    return replace(life, state="closed", outcome=outcome, reason=because, segments=segments, closed_at=now)
