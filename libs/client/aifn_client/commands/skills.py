"""`aifn course` and `suggestion`: what can be learnt, when, and what was suggested to whom and why."""

from typing import Annotated

import typer

from aifn_client import text
from aifn_client.http import path
from aifn_client.models import Course, Seat, Session, Suggestion
from aifn_client.screen import (
    ROWS,
    All,
    AsJson,
    Column,
    Limit,
    asking,
    bound,
    print_table,
    show_list,
    show_one,
)

SERVICE = "skills"
courses = typer.Typer(name="course", help="Courses, their sessions and your seats.", no_args_is_help=True)
suggestions = typer.Typer(name="suggestion", help="Courses that may help your projects.", no_args_is_help=True)

_COURSES = (
    Column[Course]("course", lambda one: one.course_id, whole=True),
    Column[Course]("title", lambda one: one.title),
    Column[Course]("kind", lambda one: one.kind),
    Column[Course]("level", lambda one: one.level),
    Column[Course]("hours", lambda one: one.hours, right=True),
    Column[Course]("in", lambda one: one.language, wide=True),
    Column[Course]("topics", lambda one: one.topics, wide=True),
    Column[Course]("taught by", lambda one: one.provider, wide=True),
)
_SESSIONS = (
    Column[Session]("session", lambda one: one.session_id, whole=True),
    Column[Session]("starts", lambda one: one.starts_at),
    Column[Session]("ends", lambda one: one.ends_at, wide=True),
    Column[Session]("where", lambda one: one.teaching),
    Column[Session]("free seats", lambda one: text.ratio(one.seats_free, one.seats), right=True),
)
_SUGGESTIONS = (
    Column[Suggestion]("project", lambda one: one.project_id, whole=True),
    Column[Suggestion]("course", lambda one: one.course_id),
    Column[Suggestion]("title", lambda one: one.title, wide=True),
    Column[Suggestion]("because", lambda one: one.because),
    Column[Suggestion]("rule", lambda one: one.rule, wide=True),
    Column[Suggestion]("caused by", lambda one: one.cause.award_id),
    Column[Suggestion]("on", lambda one: one.suggested_at, wide=True),
)


@courses.command("list")
def list_courses(
    context: typer.Context,
    words: Annotated[str | None, typer.Option("--search", help="Beginnings of words.")] = None,
    level: Annotated[str | None, typer.Option(help="hpc_familiar, ...")] = None,
    topic: Annotated[str | None, typer.Option(help="rocm, ...")] = None,
    kind: Annotated[str | None, typer.Option(help="hands_on, ...")] = None,
    provider: Annotated[str | None, typer.Option(help="Taught by this factory.")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Courses by name."""
    with asking(context) as aifn:
        found = aifn.many(
            Course, SERVICE, "/v1/courses", at_most=bound(limit, everything),
            q=words, level=level, topic=topic, kind=kind, provider=provider,
        )  # fmt: skip
        show_list(found, _COURSES, as_json=as_json, limit=limit, everything=everything, nothing="no course fits")


@courses.command("show")
def show_course(context: typer.Context, course_id: str, as_json: AsJson = False) -> None:
    """One course and its sessions to come."""
    with asking(context) as aifn:
        one = aifn.one(Course, SERVICE, path("/v1/courses/{}", course_id))
        rows = (
            ("course", one.course_id),
            ("title", one.title),
            ("about", one.description),
            ("kind", one.kind),
            ("level", one.level),
            ("topics", one.topics),
            ("after", one.prerequisites),
            ("language", one.language),
            ("hours", one.hours),
            ("taught by", one.provider),
            ("example", "yes: it shows the catalogue and announces no real course" if one.example else None),
        )
        show_one(one, rows, as_json=as_json)
        if not as_json:
            sessions = list(aifn.many(Session, SERVICE, "/v1/sessions", at_most=ROWS, course_id=one.course_id))
            if sessions:
                print_table(sessions, _SESSIONS, title="sessions to come")


@courses.command("book")
def book_seat(
    context: typer.Context,
    session_id: Annotated[str, typer.Argument(help="See `aifn course show`.")],
    as_json: AsJson = False,
) -> None:
    """Book your seat in a session of a course."""
    with asking(context) as aifn:
        one = Seat.of(aifn.post(SERVICE, path("/v1/sessions/{}/seats", session_id)))
        rows = (
            ("booked", one.title),
            ("session", one.session_id),
            ("for", one.subject),
            ("starts", one.starts_at),
            ("ends", one.ends_at),
        )
        show_one(one, rows, as_json=as_json)


@suggestions.command("list")
def list_suggestions(
    context: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only for this project.")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """What was suggested, and the award that caused it."""
    with asking(context) as aifn:
        found = aifn.many(Suggestion, SERVICE, "/v1/suggestions", at_most=bound(limit, everything), project_id=project)
        show_list(found, _SUGGESTIONS, as_json=as_json, limit=limit, everything=everything, nothing="no suggestion")
