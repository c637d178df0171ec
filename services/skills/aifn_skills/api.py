"""HTTP of skills: the catalogue, sessions and their seats, suggestions and what caused them."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

from aifn_common import clock
from aifn_common.errors import Invalid
from aifn_common.web import (
    Page,
    Paging,
    Tx,
    Who,
    check_if_match,
    make_page,
    make_router,
    not_modified,
    set_etag,
    settings_of,
)
from aifn_events.vocabulary import CourseId, FactoryId, Moment, ProjectId, Slug, short_id
from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from aifn_skills import actions, store
from aifn_skills.domain import Course, Kind, Level, Seat, Session, Suggestion, Teaching
from aifn_skills.settings import SkillsSettings

router = make_router()
Settings = Annotated[SkillsSettings, Depends(settings_of)]
Topic = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]


class CourseWords(BaseModel):
    """What a trainer says of a course."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)] = Field(
        examples=["Porting to ROCm"]
    )
    description: str = Field(default="", max_length=4000, examples=["Move CUDA code to AMD GPUs, step by step"])
    kind: Kind = Field(examples=["hands_on"])
    level: Level = Field(description="matched to Playground, Fast Lane, Large Scale", examples=["hpc_familiar"])
    topics: list[Topic] = Field(default=[], max_length=20, examples=[["rocm", "porting"]])
    prerequisites: list[CourseId] = Field(
        default=[], max_length=20, description="courses of the same or a lower level", examples=[[]]
    )
    language: str = Field(default="en", pattern=r"^[a-z]{2}$", examples=["en"])
    hours: int = Field(ge=1, le=2000, strict=True, description="of teaching", examples=[8])

    def course(self, course_id: CourseId, factory_id: FactoryId) -> Course:
        """These words as the first revision of a course."""
        return Course(
            id=course_id,
            revision=0,
            factory_id=factory_id,
            title=self.title,
            description=self.description,
            kind=self.kind,
            level=self.level,
            topics=tuple(dict.fromkeys(self.topics)),
            prerequisites=tuple(dict.fromkeys(self.prerequisites)),
            language=self.language,
            hours=self.hours,
        )


class NewCourse(CourseWords):
    """A course that is not in the catalogue yet."""

    course_id: CourseId = Field(examples=["rocm-porting"])


class CourseView(BaseModel):
    """Something that can be learnt."""

    course_id: CourseId = Field(examples=["rocm-porting"])
    revision: int = Field(examples=[0])
    provider: FactoryId = Field(description="the factory that teaches", examples=["lumi-aif"])
    title: str = Field(examples=["Porting to ROCm"])
    description: str = Field(examples=["Move CUDA code to AMD GPUs, step by step"])
    kind: Kind = Field(examples=["hands_on"])
    level: Level = Field(examples=["hpc_familiar"])
    topics: list[str] = Field(examples=[["rocm", "porting"]])
    prerequisites: list[CourseId] = Field(examples=[[]])
    language: str = Field(examples=["en"])
    hours: int = Field(examples=[8])
    example: bool = Field(description="shows the catalogue and announces no real course", examples=[True])

    @classmethod
    def of(cls, course: Course) -> "CourseView":
        """A course for readers."""
        values = asdict(course)
        return cls(course_id=values.pop("id"), provider=values.pop("factory_id"), **values)


class NewSession(BaseModel):
    """A course takes place."""

    model_config = ConfigDict(extra="forbid")

    session_id: Slug | None = Field(
        default=None, description="a name is made if none is given", examples=["rocm-porting-2026-12"]
    )
    starts_at: Moment = Field(examples=["2126-12-03T08:00:00Z"])
    ends_at: Moment = Field(examples=["2126-12-03T16:00:00Z"])
    teaching: Teaching = Field(examples=["online"])
    seats: int = Field(ge=1, le=100_000, strict=True, examples=[30])


class SessionView(BaseModel):
    """When a course takes place, and how many seats are left."""

    session_id: Slug = Field(examples=["rocm-porting-2026-12"])
    course_id: CourseId = Field(examples=["rocm-porting"])
    provider: FactoryId = Field(description="the factory that teaches", examples=["lumi-aif"])
    title: str = Field(examples=["Porting to ROCm"])
    starts_at: datetime = Field(examples=["2126-12-03T08:00:00Z"])
    ends_at: datetime = Field(examples=["2126-12-03T16:00:00Z"])
    teaching: Teaching = Field(examples=["online"])
    seats: int = Field(examples=[30])
    seats_free: int = Field(examples=[12])

    @classmethod
    def of(cls, session: Session) -> "SessionView":
        """A session for readers."""
        values = asdict(session)
        del values["taken"]
        return cls(session_id=values.pop("id"), provider=values.pop("factory_id"), seats_free=session.free, **values)


class SeatView(BaseModel):
    """A person's place in a session."""

    session_id: Slug = Field(examples=["rocm-porting-2026-12"])
    course_id: CourseId = Field(examples=["rocm-porting"])
    title: str = Field(examples=["Porting to ROCm"])
    starts_at: datetime = Field(examples=["2126-12-03T08:00:00Z"])
    ends_at: datetime = Field(examples=["2126-12-03T16:00:00Z"])
    subject: str = Field(examples=["7c1d@myaccessid"])
    booked_at: datetime = Field(examples=["2026-11-21T09:00:00Z"])

    @classmethod
    def of(cls, seat: Seat) -> "SeatView":
        """A seat for readers."""
        return cls(
            session_id=seat.session.id,
            course_id=seat.session.course_id,
            title=seat.session.title,
            starts_at=seat.session.starts_at,
            ends_at=seat.session.ends_at,
            subject=seat.subject,
            booked_at=seat.booked_at,
        )


class CauseView(BaseModel):
    """The event that caused a suggestion."""

    topic: str = Field(examples=["aifn-award-granted-v1"])
    id: str = Field(examples=["0198c7d2-0000-7000-8000-000000000000"])
    source: str = Field(examples=["urn:aifn:lumi-aif:scheduler"])
    award_id: Slug = Field(examples=["award-0198c7d3"])


class SuggestionView(BaseModel):
    """A course that may help a project, and why."""

    suggestion_id: Slug = Field(examples=["sug-0198c7d6"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    course_id: CourseId = Field(examples=["rocm-porting"])
    title: str = Field(description="of the course", examples=["Porting to ROCm"])
    rule: str = Field(examples=["first-amd-project"])
    because: str = Field(examples=["this is the project's first award on a machine with AMD GPUs"])
    cause: CauseView
    suggested_at: datetime = Field(examples=["2026-11-21T09:00:00Z"])

    @classmethod
    def of(cls, suggestion: Suggestion) -> "SuggestionView":
        """A suggestion for readers."""
        return cls(
            suggestion_id=suggestion.id,
            project_id=suggestion.project_id,
            course_id=suggestion.course_id,
            title=suggestion.course_title,
            rule=suggestion.rule,
            because=suggestion.because,
            cause=CauseView(
                topic=suggestion.cause_topic,
                id=suggestion.cause_id,
                source=suggestion.cause_source,
                award_id=suggestion.award_id,
            ),
            suggested_at=suggestion.suggested_at,
        )


@router.get("/courses", summary="Search the catalogue", tags=["courses"])
async def list_courses(
    tx: Tx,
    who: Who,
    page: Paging,
    q: Annotated[str | None, Query(max_length=200, description="beginnings of words")] = None,
    level: Level | None = None,
    topic: Annotated[str | None, Query(max_length=40)] = None,
    kind: Kind | None = None,
    provider: Annotated[FactoryId | None, Query(description="the factory that teaches")] = None,
) -> Page[CourseView]:
    """Courses by name. All filters must hold."""
    who.must("course.read")
    wanted = store.CourseFilter(q, level, topic, kind, provider)
    found = await store.list_courses(tx, wanted, after=page.after, limit=page.limit + 1)
    return make_page([CourseView.of(one) for one in found], page.limit, lambda view: view.course_id)


@router.get("/courses/{course_id}", summary="One course", tags=["courses"])
async def get_course(course_id: CourseId, request: Request, response: Response, tx: Tx, who: Who) -> CourseView:
    """A course with its ETag."""
    who.must("course.read")
    course = await store.get_course(tx, course_id)
    not_modified(request, course.revision)
    set_etag(response, course.revision)
    return CourseView.of(course)


@router.post("/courses", status_code=201, summary="Add a course", tags=["courses"])
async def add_course(body: NewCourse, response: Response, tx: Tx, who: Who, settings: Settings) -> CourseView:
    """Add a course of this factory. 409 `course_exists` if the name is taken."""
    who.must("course.write", factory=settings.factory)
    course = await actions.add_course(tx, body.course(body.course_id, settings.factory))
    response.headers["location"] = f"/v1/courses/{course.id}"
    set_etag(response, course.revision)
    return CourseView.of(course)


@router.put("/courses/{course_id}", summary="Change the words of a course", tags=["courses"])
async def revise_course(
    course_id: CourseId, body: CourseWords, request: Request, response: Response, tx: Tx, who: Who
) -> CourseView:
    """Replace all words of a course; `If-Match` names the revision they were made from."""
    before = await store.get_course(tx, course_id, lock=True)
    who.must("course.write", factory=before.factory_id)
    check_if_match(request, before.revision)
    after = await actions.revise_course(tx, before, body.course(course_id, before.factory_id))
    set_etag(response, after.revision)
    return CourseView.of(after)


@router.post("/courses/{course_id}/sessions", status_code=201, summary="Plan a session", tags=["sessions"])
async def schedule_session(course_id: CourseId, body: NewSession, response: Response, tx: Tx, who: Who) -> SessionView:
    """Plan when a course takes place, and for how many. 409 `session_exists` if the name is taken."""
    course = await store.get_course(tx, course_id)
    who.must("course.write", factory=course.factory_id)
    session = await actions.schedule_session(
        tx,
        Session(
            id=body.session_id or short_id("session"),
            course_id=course.id,
            factory_id=course.factory_id,
            title=course.title,
            starts_at=body.starts_at,
            ends_at=body.ends_at,
            teaching=body.teaching,
            seats=body.seats,
        ),
    )
    response.headers["location"] = f"/v1/sessions/{session.id}"
    return SessionView.of(session)


@router.get("/sessions", summary="Sessions to come", tags=["sessions"])
async def list_sessions(
    tx: Tx,
    who: Who,
    page: Paging,
    course_id: CourseId | None = None,
    past: Annotated[bool, Query(description="show those that have begun too")] = False,
) -> Page[SessionView]:
    """Sessions by their start, with the seats that are left."""
    who.must("course.read")
    found = await store.list_sessions(
        tx,
        course_id=course_id,
        later_than=None if past else clock.now(),
        after=_moment_and_id(page.after),
        limit=page.limit + 1,
    )
    views = [SessionView.of(one) for one in found]
    return make_page(views, page.limit, lambda view: f"{view.starts_at.isoformat()} {view.session_id}")


@router.get("/sessions/{session_id}", summary="One session", tags=["sessions"])
async def get_session(session_id: Slug, tx: Tx, who: Who) -> SessionView:
    """A session with the seats that are left."""
    who.must("course.read")
    return SessionView.of(await store.get_session(tx, session_id))


@router.post("/sessions/{session_id}/seats", status_code=201, summary="Book your seat", tags=["seats"])
async def book_seat(session_id: Slug, tx: Tx, who: Who) -> SeatView:
    """409 `sold_out`, `seat_booked_already` or `session_past` if there is no seat for you."""
    who.must("seat.book", subject=who.subject)
    return SeatView.of(await actions.book_seat(tx, session_id, who.subject))


@router.delete("/sessions/{session_id}/seats/mine", summary="Give your seat back", tags=["seats"])
async def give_up_seat(session_id: Slug, tx: Tx, who: Who) -> SessionView:
    """Free your seat for somebody else, as long as the session has not begun."""
    who.must("seat.book", subject=who.subject)
    return SessionView.of(await actions.give_up_seat(tx, session_id, who.subject))


@router.get("/seats", summary="Your seats", tags=["seats"])
async def list_seats(
    tx: Tx,
    who: Who,
    page: Paging,
    session_id: Slug | None = None,
    mine: Annotated[bool, Query(description="leave out what you may see of others")] = False,
) -> Page[SeatView]:
    """Your own seats; a trainer sees those of the factory's sessions too."""
    scope = who.scope("seat.read")
    found = await store.list_seats(
        tx,
        store.Reach(scope.everything, scope.projects, scope.factories, scope.subject),
        session_id=session_id,
        subject=who.subject if mine else None,
        after=_two_words(page.after),
        limit=page.limit + 1,
    )
    views = [SeatView.of(one) for one in found]
    return make_page(views, page.limit, lambda view: f"{view.session_id} {view.subject}")


@router.get("/suggestions", summary="Courses that may help your projects", tags=["suggestions"])
async def list_suggestions(tx: Tx, who: Who, page: Paging, project_id: ProjectId | None = None) -> Page[SuggestionView]:
    """What was suggested, and the event that caused it; oldest first."""
    scope = who.scope("suggestion.read")
    reach = store.Reach(scope.everything, scope.projects, scope.factories, scope.subject)
    found = await store.list_suggestions(tx, reach, project_id=project_id, after=page.after, limit=page.limit + 1)
    return make_page([SuggestionView.of(one) for one in found], page.limit, lambda view: view.suggestion_id)


def _two_words(cursor: str | None) -> tuple[str, str] | None:
    if cursor is None:
        return None
    first, space, second = cursor.partition(" ")
    if not (first and space and second):
        raise Invalid("`after` is not a cursor that a page of this list gave")
    return first, second


def _moment_and_id(cursor: str | None) -> tuple[datetime, str] | None:
    words = _two_words(cursor)
    if words is None:
        return None
    try:
        moment = datetime.fromisoformat(words[0])
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Invalid("`after` is not a cursor that a page of this list gave")
    return moment, words[1]
