"""Courses, sessions with seats, and advice: pure rules."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from aifn_common.errors import Invalid, NotFound, Refusal
from aifn_events.vocabulary import AwardId, CourseId, FactoryId, MachineId, ModeId, PartitionId, ProjectId, Subject

Kind = Literal["workshop", "mooc", "hands_on", "sandbox"]
Level = Literal["entry", "hpc_familiar", "expert"]
"""Matched to Playground, Fast Lane and Large Scale."""
Teaching = Literal["online", "onsite"]
LEVELS: tuple[Level, ...] = ("entry", "hpc_familiar", "expert")

Vendors = Mapping[MachineId, Mapping[PartitionId, str | None]]
"""The maker of the GPUs of each partition of each machine that is known; None has no GPUs, or nobody said."""


class CourseExists(Refusal):
    """A course of this name is in the catalogue already."""

    code = "course_exists"

    def __init__(self, course_id: CourseId) -> None:
        super().__init__(f"course {course_id} is in the catalogue already")
        self.course_id = course_id


class CourseUnknown(NotFound):
    """No course of this name."""

    def __init__(self, course_id: CourseId) -> None:
        super().__init__(f"no course {course_id}")
        self.course_id = course_id


class PrerequisiteWrong(Invalid):
    """A prerequisite must be another course of the catalogue, and of no higher level."""

    code = "prerequisite_wrong"

    def __init__(self, course_id: CourseId, because: str) -> None:
        super().__init__(f"prerequisite {course_id}: {because}")
        self.prerequisite = course_id


class SessionExists(Refusal):
    """A session of this name is planned already."""

    code = "session_exists"

    def __init__(self, session_id: str) -> None:
        super().__init__(f"session {session_id} is planned already")
        self.session_id = session_id


class SessionUnknown(NotFound):
    """No session of this name."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"no session {session_id}")
        self.session_id = session_id


class SessionTimesWrong(Invalid):
    """A session begins in the future and ends after it has begun."""

    code = "session_times_wrong"


class SessionPast(Refusal):
    """The session has begun: its seats change no more."""

    code = "session_past"

    def __init__(self, session: "Session") -> None:
        super().__init__(f"session {session.id} has begun on {session.starts_at:%Y-%m-%d %H:%M} UTC")
        self.session_id = session.id


class SoldOut(Refusal):
    """Every seat is taken."""

    code = "sold_out"

    def __init__(self, session: "Session") -> None:
        super().__init__(f"all {session.seats} seats of session {session.id} are taken")
        self.session_id = session.id
        self.seats = session.seats


class SeatTaken(Refusal):
    """One person, one seat."""

    code = "seat_booked_already"

    def __init__(self, session: "Session") -> None:
        super().__init__(f"you have a seat in session {session.id} already")
        self.session_id = session.id


class SeatUnknown(NotFound):
    """The person has no seat in this session."""

    def __init__(self, session_id: str) -> None:
        super().__init__(f"you have no seat in session {session_id}")
        self.session_id = session_id


@dataclass(frozen=True)
class Course:
    """Something that can be learnt. `example` marks an entry that shows the catalogue and announces nothing real."""

    id: CourseId
    revision: int
    factory_id: FactoryId
    title: str
    description: str
    kind: Kind
    level: Level
    topics: tuple[str, ...]
    prerequisites: tuple[CourseId, ...]
    language: str
    hours: int
    example: bool = False


@dataclass(frozen=True)
class Session:
    """A course takes place. `taken` counts the seats that are booked."""

    id: str
    course_id: CourseId
    factory_id: FactoryId
    title: str
    starts_at: datetime
    ends_at: datetime
    teaching: Teaching
    seats: int
    taken: int = 0

    @property
    def free(self) -> int:
        """Seats that can still be booked."""
        return self.seats - self.taken


@dataclass(frozen=True)
class Seat:
    """A person's place in a session."""

    session: Session
    subject: Subject
    booked_at: datetime


@dataclass(frozen=True)
class Line:
    """One partition an award names."""

    machine_id: MachineId
    partition_id: PartitionId


@dataclass(frozen=True)
class Award:
    """What advice must know of an award, and the event that told of it."""

    id: AwardId
    project_id: ProjectId
    factory_id: FactoryId
    mode: ModeId
    lines: tuple[Line, ...]
    granted_at: datetime
    cause_topic: str
    cause_id: str
    cause_source: str


@dataclass(frozen=True)
class Rule:
    """When a project should hear of a course: all conditions that are set must hold for one of its awards."""

    id: str
    course_id: CourseId
    because: str
    gpu_vendor: str | None = None
    mode: ModeId | None = None


@dataclass(frozen=True)
class Advice:
    """A rule that holds, and the first award for which it does."""

    rule: Rule
    award: Award


@dataclass(frozen=True)
class Suggestion:
    """A course was suggested to a project; the event that caused it is named."""

    id: str
    project_id: ProjectId
    factory_id: FactoryId
    course_id: CourseId
    course_title: str
    rule: str
    because: str
    cause_topic: str
    cause_id: str
    cause_source: str
    award_id: AwardId
    suggested_at: datetime


def check_prerequisites(course: Course, catalogue: Mapping[CourseId, Level]) -> None:
    """A path through the catalogue must lead upwards.

    Args:
        catalogue: the levels of the courses that are named as prerequisites, where they exist.
    Raises: PrerequisiteWrong.
    """
    for needed in course.prerequisites:
        if needed == course.id:
            raise PrerequisiteWrong(needed, "a course cannot need itself")
        if needed not in catalogue:
            raise PrerequisiteWrong(needed, "no such course in the catalogue")
        if LEVELS.index(catalogue[needed]) > LEVELS.index(course.level):
            raise PrerequisiteWrong(needed, f"its level {catalogue[needed]} is above {course.level}")


def check_times(session: Session, now: datetime) -> None:
    """Raises SessionTimesWrong, when a new session would begin in the past or end before it begins."""
    if session.starts_at <= now:
        raise SessionTimesWrong(f"session {session.id} would begin in the past")
    if session.ends_at <= session.starts_at:
        raise SessionTimesWrong(f"session {session.id} would end before it begins")


def book(session: Session, *, has_seat: bool, now: datetime) -> Session:
    """Take one seat.

    Args:
        has_seat: whether the person sits in this session already.
    Raises: SessionPast, SeatTaken, SoldOut.
    """
    if session.starts_at <= now:
        raise SessionPast(session)
    if has_seat:
        raise SeatTaken(session)
    if session.free <= 0:
        raise SoldOut(session)
    return replace(session, taken=session.taken + 1)


def give_up(session: Session, *, has_seat: bool, now: datetime) -> Session:
    """Give a seat back. Raises SeatUnknown, SessionPast."""
    if not has_seat:
        raise SeatUnknown(session.id)
    if session.starts_at <= now:
        raise SessionPast(session)
    return replace(session, taken=session.taken - 1)


def holds(rule: Rule, award: Award, vendors: Vendors) -> bool:
    """Whether every condition of a rule holds for an award. What is not known yet does not hold."""
    if rule.mode is not None and rule.mode != award.mode:
        return False
    if rule.gpu_vendor is None:
        return True
    makers = {vendors.get(line.machine_id, {}).get(line.partition_id) for line in award.lines}
    return rule.gpu_vendor.casefold() in {maker.casefold() for maker in makers if maker}


def advise(rules: Iterable[Rule], awards: Sequence[Award], vendors: Vendors, *, given: frozenset[str]) -> list[Advice]:
    """What a project should hear now: each rule once, for the first award for which it holds.

    The answer depends on what is known, not on the order in which it was heard: an award on an unknown machine
    waits, and counts once its machine is described.

    Args:
        awards: all awards of one project that are known.
        given: ids of the rules that have spoken to this project before.
    """
    in_order = sorted(awards, key=lambda award: (award.granted_at, award.id))
    found = []
    for rule in rules:
        first = next((award for award in in_order if holds(rule, award, vendors)), None)
        if first is not None and rule.id not in given:
            found.append(Advice(rule, first))
    return found
