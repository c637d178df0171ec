"""All SQL of skills: the catalogue, seats, what was heard of awards and machines, and suggestions."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from aifn_common.database import Row, Transaction
from aifn_events.vocabulary import CourseId, MachineId, PartitionId, ProjectId, Subject

from aifn_skills.domain import (
    Award,
    Course,
    CourseExists,
    CourseUnknown,
    Kind,
    Level,
    Line,
    Rule,
    Seat,
    Session,
    SessionExists,
    SessionUnknown,
    Suggestion,
    Vendors,
)

_COURSE_COLUMNS = """id, revision, factory_id, title, description, kind, level, topics, prerequisites, language,
    hours, example"""
_WORDS = "to_tsvector('simple', $1 || ' ' || $4 || ' ' || $5 || ' ' || array_to_string($8::text[], ' '))"
_COURSE = f"SELECT {_COURSE_COLUMNS} FROM course WHERE id = $1"
_ADD_COURSE = f"""
INSERT INTO course ({_COURSE_COLUMNS}, words)
VALUES ($1::text, $2, $3, $4::text, $5::text, $6, $7, $8, $9, $10, $11, $12, {_WORDS})
ON CONFLICT (id) DO NOTHING RETURNING id"""
_REPLACE_COURSE = f"""
UPDATE course SET revision = $2, factory_id = $3, title = $4::text, description = $5::text, kind = $6, level = $7,
    topics = $8, prerequisites = $9, language = $10, hours = $11, example = $12, words = {_WORDS}
WHERE id = $1::text"""
_COURSES = f"""
SELECT {_COURSE_COLUMNS} FROM course
WHERE ($1::text IS NULL OR words @@ to_tsquery('simple', $1))
  AND ($2::text IS NULL OR level = $2)
  AND ($3::text IS NULL OR $3 = ANY(topics))
  AND ($4::text IS NULL OR kind = $4)
  AND ($5::text IS NULL OR factory_id = $5)
  AND ($6::text IS NULL OR id > $6)
ORDER BY id LIMIT $7"""
_LEVELS = "SELECT id, level FROM course WHERE id = ANY($1::text[])"

_SESSION_COLUMNS = "id, course_id, factory_id, title, starts_at, ends_at, teaching, seats, taken"
_SESSION = f"SELECT {_SESSION_COLUMNS} FROM session WHERE id = $1"
_ADD_SESSION = f"""
INSERT INTO session ({_SESSION_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (id) DO NOTHING RETURNING id"""
_SESSIONS = f"""
SELECT {_SESSION_COLUMNS} FROM session
WHERE ($1::text IS NULL OR course_id = $1)
  AND ($2::timestamptz IS NULL OR starts_at > $2)
  AND ($3::timestamptz IS NULL OR (starts_at, id) > ($3, $4::text))
ORDER BY starts_at, id LIMIT $5"""
_KEEP_TAKEN = "UPDATE session SET taken = $2 WHERE id = $1"
_HAS_SEAT = "SELECT EXISTS (SELECT FROM seat WHERE session_id = $1 AND subject = $2)"
_ADD_SEAT = "INSERT INTO seat (session_id, subject, booked_at) VALUES ($1, $2, $3)"
_DROP_SEAT = "DELETE FROM seat WHERE session_id = $1 AND subject = $2"
_SEATS = """
SELECT s.id, s.course_id, s.factory_id, s.title, s.starts_at, s.ends_at, s.teaching, s.seats, s.taken,
    seat.subject, seat.booked_at
FROM seat JOIN session s ON s.id = seat.session_id
WHERE ($1 OR s.factory_id = ANY($2::text[]) OR seat.subject = $3)
  AND ($4::text IS NULL OR s.id = $4)
  AND ($5::text IS NULL OR seat.subject = $5)
  AND ($6::text IS NULL OR (s.id, seat.subject) > ($6, $7::text))
ORDER BY s.id, seat.subject LIMIT $8"""

_KEEP_RULE = """
INSERT INTO advice_rule (id, course_id, because, gpu_vendor, mode) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO UPDATE SET course_id = excluded.course_id, because = excluded.because,
    gpu_vendor = excluded.gpu_vendor, mode = excluded.mode"""
_RULES = "SELECT id, course_id, because, gpu_vendor, mode FROM advice_rule ORDER BY id"
_ADD_AWARD = """
INSERT INTO award (id, project_id, factory_id, mode, granted_at, cause_topic, cause_id, cause_source)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING"""
_ADD_LINES = """
INSERT INTO award_line (award_id, machine_id, partition_id)
SELECT $1, * FROM unnest($2::text[], $3::text[]) ON CONFLICT DO NOTHING"""
_AWARDS = """
SELECT a.id, a.project_id, a.factory_id, a.mode, a.granted_at, a.cause_topic, a.cause_id, a.cause_source,
    array_agg(l.machine_id ORDER BY l.machine_id, l.partition_id) AS machines,
    array_agg(l.partition_id ORDER BY l.machine_id, l.partition_id) AS partitions
FROM award a JOIN award_line l ON l.award_id = a.id
WHERE a.project_id = $1 GROUP BY a.id ORDER BY a.granted_at, a.id"""
_PROJECTS_ON = """
SELECT DISTINCT a.project_id FROM award a JOIN award_line l ON l.award_id = a.id
WHERE l.machine_id = $1 ORDER BY a.project_id"""
_MACHINE_REVISION = "SELECT revision FROM machine WHERE id = $1"
_KEEP_MACHINE = """
INSERT INTO machine (id, revision, vendors) VALUES ($1, $2, $3)
ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, vendors = excluded.vendors"""
_VENDORS = "SELECT id, vendors FROM machine WHERE id = ANY($1::text[])"

_ADD_SUGGESTION = """
INSERT INTO suggestion (id, project_id, factory_id, course_id, rule, because, cause_topic, cause_id, cause_source,
    award_id, suggested_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (project_id, course_id, rule) DO NOTHING RETURNING id"""
_GIVEN = "SELECT rule FROM suggestion WHERE project_id = $1"
_SUGGESTIONS = """
SELECT s.id, s.project_id, s.factory_id, s.course_id, course.title AS course_title, s.rule, s.because,
    s.cause_topic, s.cause_id, s.cause_source, s.award_id, s.suggested_at
FROM suggestion s JOIN course ON course.id = s.course_id
WHERE ($1 OR s.project_id = ANY($2::text[]) OR s.factory_id = ANY($3::text[]))
  AND ($4::text IS NULL OR s.project_id = $4)
  AND ($5::text IS NULL OR s.id > $5)
ORDER BY s.id LIMIT $6"""

_MACHINES_LOCK = 0x6D61_6368  # any number, used for nothing else in this database


@dataclass(frozen=True)
class CourseFilter:
    """What a reader looks for; None is no wish."""

    text: str | None = None
    level: Level | None = None
    topic: str | None = None
    kind: Kind | None = None
    provider: str | None = None


@dataclass(frozen=True)
class Reach:
    """Whose seats or suggestions a reader may see."""

    everything: bool
    projects: frozenset[str]
    factories: frozenset[str]
    subject: Subject | None


async def add_course(tx: Transaction, course: Course) -> None:
    """Keep a new course. Raises CourseExists, also against another transaction that runs now."""
    if await tx.fetchval(_ADD_COURSE, *_course_values(course)) is None:
        raise CourseExists(course.id)


async def replace_course(tx: Transaction, course: Course) -> None:
    """Keep the next revision of a course whose row is locked."""
    await tx.execute(_REPLACE_COURSE, *_course_values(course))


async def get_course(tx: Transaction, course_id: CourseId, *, lock: bool = False) -> Course:
    """Read a course; `lock` holds the row until the end. Raises CourseUnknown."""
    row = await tx.fetchrow(_COURSE + (" FOR UPDATE" if lock else ""), course_id)
    if row is None:
        raise CourseUnknown(course_id)
    return _course(row)


async def list_courses(tx: Transaction, wanted: CourseFilter, *, after: str | None, limit: int) -> list[Course]:
    """Courses by name, those after `after`; the text is the beginnings of words, topics included."""
    text = None if wanted.text is None else _beginnings(wanted.text)
    rows = await tx.fetch(_COURSES, text, wanted.level, wanted.topic, wanted.kind, wanted.provider, after, limit)
    return [_course(row) for row in rows]


async def levels_of(tx: Transaction, course_ids: Sequence[CourseId]) -> dict[CourseId, Level]:
    """The levels of those of the named courses that exist."""
    return {row["id"]: row["level"] for row in await tx.fetch(_LEVELS, list(course_ids))}


async def add_session(tx: Transaction, session: Session) -> None:
    """Keep a new session of a course that exists. Raises SessionExists."""
    values = asdict(session)
    names = [name.strip() for name in _SESSION_COLUMNS.split(",")]
    if await tx.fetchval(_ADD_SESSION, *(values[name] for name in names)) is None:
        raise SessionExists(session.id)


async def get_session(tx: Transaction, session_id: str, *, lock: bool = False) -> Session:
    """Read a session; `lock` lets bookings pass one by one. Raises SessionUnknown."""
    row = await tx.fetchrow(_SESSION + (" FOR UPDATE" if lock else ""), session_id)
    if row is None:
        raise SessionUnknown(session_id)
    return Session(**row)


async def list_sessions(
    tx: Transaction,
    *,
    course_id: CourseId | None,
    later_than: datetime | None,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Session]:
    """Sessions by start, those after `after` (start, id); `later_than` leaves out what has begun by then."""
    start, last = after or (None, None)
    return [Session(**row) for row in await tx.fetch(_SESSIONS, course_id, later_than, start, last, limit)]


async def has_seat(tx: Transaction, session_id: str, subject: Subject) -> bool:
    """Whether a person sits in a session."""
    return bool(await tx.fetchval(_HAS_SEAT, session_id, subject))


async def add_seat(tx: Transaction, seat: Seat) -> None:
    """Keep a seat and the count of its session, whose row is locked."""
    await tx.execute(_ADD_SEAT, seat.session.id, seat.subject, seat.booked_at)
    await tx.execute(_KEEP_TAKEN, seat.session.id, seat.session.taken)


async def drop_seat(tx: Transaction, session: Session, subject: Subject) -> None:
    """Free a seat and keep the count of its session, whose row is locked."""
    await tx.execute(_DROP_SEAT, session.id, subject)
    await tx.execute(_KEEP_TAKEN, session.id, session.taken)


async def list_seats(
    tx: Transaction,
    reach: Reach,
    *,
    session_id: str | None,
    subject: Subject | None,
    after: tuple[str, str] | None,
    limit: int,
) -> list[Seat]:
    """Seats within reach by session and person, those after `after` (session, person)."""
    last_session, last_subject = after or (None, None)
    rows = await tx.fetch(
        _SEATS,
        reach.everything,
        sorted(reach.factories),
        reach.subject,
        session_id,
        subject,
        last_session,
        last_subject,
        limit,
    )
    return [_seat(row) for row in rows]


async def keep_rules(tx: Transaction, rules: Iterable[Rule]) -> None:
    """Keep rules of advice; newer words replace older ones."""
    values = [(rule.id, rule.course_id, rule.because, rule.gpu_vendor, rule.mode) for rule in rules]
    await tx.executemany(_KEEP_RULE, values)


async def list_rules(tx: Transaction) -> list[Rule]:
    """All rules of advice."""
    return [Rule(**row) for row in await tx.fetch(_RULES)]


async def hold_project(tx: Transaction, project_id: ProjectId) -> None:
    """Let the advice for one project be made one by one."""
    await tx.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", project_id)


async def hold_machines(tx: Transaction, *, to_change: bool = False) -> None:
    """Keep what is known of machines steady until the end; `to_change` waits for all who rely on it.

    Taken before `hold_project`, always, so that two transactions cannot wait for each other.
    """
    kind = "pg_advisory_xact_lock" if to_change else "pg_advisory_xact_lock_shared"
    await tx.execute(f"SELECT {kind}($1)", _MACHINES_LOCK)


async def add_award(tx: Transaction, award: Award) -> None:
    """Remember an award; one that is known already changes nothing."""
    await tx.execute(
        _ADD_AWARD,
        award.id,
        award.project_id,
        award.factory_id,
        award.mode,
        award.granted_at,
        award.cause_topic,
        award.cause_id,
        award.cause_source,
    )
    machines, partitions = [line.machine_id for line in award.lines], [line.partition_id for line in award.lines]
    await tx.execute(_ADD_LINES, award.id, machines, partitions)


async def awards_of(tx: Transaction, project_id: ProjectId) -> list[Award]:
    """All awards of a project, earliest first."""
    return [_award(row) for row in await tx.fetch(_AWARDS, project_id)]


async def projects_on(tx: Transaction, machine_id: MachineId) -> list[ProjectId]:
    """Projects with an award that names a machine, whether the machine is known or not."""
    return [row["project_id"] for row in await tx.fetch(_PROJECTS_ON, machine_id)]


async def machine_revision(tx: Transaction, machine_id: MachineId) -> int | None:
    """The revision of the last word on a machine; None when nothing was heard of it."""
    revision: int | None = await tx.fetchval(_MACHINE_REVISION, machine_id)
    return revision


async def keep_machine(
    tx: Transaction, machine_id: MachineId, revision: int, vendors: dict[PartitionId, str | None]
) -> None:
    """Remember who made the GPUs of a machine's partitions."""
    await tx.execute(_KEEP_MACHINE, machine_id, revision, vendors)


async def vendors_of(tx: Transaction, machine_ids: Iterable[MachineId]) -> Vendors:
    """What is known of the GPUs of the named machines; unknown machines are left out."""
    return {row["id"]: row["vendors"] for row in await tx.fetch(_VENDORS, sorted(set(machine_ids)))}


async def rules_given(tx: Transaction, project_id: ProjectId) -> frozenset[str]:
    """Ids of the rules that have spoken to a project."""
    return frozenset(row["rule"] for row in await tx.fetch(_GIVEN, project_id))


async def add_suggestion(tx: Transaction, suggestion: Suggestion) -> bool:
    """Keep a suggestion; False if this project has it already."""
    row = await tx.fetchval(
        _ADD_SUGGESTION,
        suggestion.id,
        suggestion.project_id,
        suggestion.factory_id,
        suggestion.course_id,
        suggestion.rule,
        suggestion.because,
        suggestion.cause_topic,
        suggestion.cause_id,
        suggestion.cause_source,
        suggestion.award_id,
        suggestion.suggested_at,
    )
    return row is not None


async def list_suggestions(
    tx: Transaction, reach: Reach, *, project_id: ProjectId | None, after: str | None, limit: int
) -> list[Suggestion]:
    """Suggestions within reach, oldest first."""
    rows = await tx.fetch(
        _SUGGESTIONS, reach.everything, sorted(reach.projects), sorted(reach.factories), project_id, after, limit
    )
    return [Suggestion(**row) for row in rows]


def _beginnings(text: str) -> str:
    # Only letters, digits and underscores are left, so nothing in the words can be an operator of the query.
    words = re.findall(r"\w+", text.lower())
    return " & ".join(f"'{word}':*" for word in words)


def _course(row: Row) -> Course:
    lists = {"topics": tuple(row["topics"]), "prerequisites": tuple(row["prerequisites"])}
    return Course(**{**dict(row), **lists})


def _course_values(course: Course) -> tuple[object, ...]:
    values = asdict(course)
    return tuple(values[name.strip()] for name in _COURSE_COLUMNS.split(","))


def _seat(row: Row) -> Seat:
    values = dict(row)
    subject, booked_at = values.pop("subject"), values.pop("booked_at")
    return Seat(session=Session(**values), subject=subject, booked_at=booked_at)


def _award(row: Row) -> Award:
    values = dict(row)
    machines, partitions = values.pop("machines"), values.pop("partitions")
    return Award(**values, lines=tuple(Line(m, p) for m, p in zip(machines, partitions, strict=True)))
