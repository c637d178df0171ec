"""The starter catalogue and the first rules of advice: data of the folder `seed`, checked when it is read."""

import json
from datetime import UTC, datetime, time, timedelta
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from aifn_events.vocabulary import CourseId, FactoryId, ModeId, Slug
from pydantic import BaseModel, ConfigDict, Field

from aifn_skills.domain import Course, Kind, Level, Rule, Session, Teaching

BEGINS_AT = time(8, 0, tzinfo=UTC)


class Record(BaseModel):
    """A value of the seed: an unknown field is an error, so that nothing is lost by a misspelling."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SessionRecord(Record):
    """When a course takes place, counted from the first day of an installation."""

    id: Slug
    starts_in_days: Annotated[int, Field(ge=0)]
    seats: Annotated[int, Field(ge=1)]
    mode: Teaching


class CourseRecord(Record):
    """One entry of the catalogue."""

    id: CourseId
    title: str
    provider_factory_id: FactoryId
    kind: Kind
    level: Level
    topics: tuple[str, ...]
    prerequisites: tuple[CourseId, ...]
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$")]
    hours: Annotated[int, Field(ge=1)]
    description: str
    sessions: tuple[SessionRecord, ...]


class Catalogue(Record):
    """The file `courses.json`."""

    schema_version: Literal[1]
    as_of: str
    nature: Literal["example", "real"]
    nature_note: str
    starts_in_days: str
    levels: dict[str, str | list[str]]
    courses: tuple[CourseRecord, ...]


class Conditions(Record):
    """What must hold. `first_for: project` is how every rule works here: it speaks once to a project."""

    fact: Literal["award-granted"]
    gpu_vendor: str | None = None
    mode_id: ModeId | None = None
    first_for: Literal["project"]


class RuleRecord(Record):
    """One rule of advice."""

    id: Slug
    when: Conditions
    suggest: CourseId
    because: str


class Rulebook(Record):
    """The file `advice_rules.json`."""

    schema_version: Literal[1]
    as_of: str
    nature: Literal["example", "real"]
    rule: str
    rules: tuple[RuleRecord, ...]


@cache
def catalogue() -> Catalogue:
    """Read the catalogue. Raises pydantic.ValidationError if a value has the wrong shape."""
    return Catalogue.model_validate(_read("courses.json"))


@cache
def rulebook() -> Rulebook:
    """Read the rules of advice. Raises pydantic.ValidationError if a value has the wrong shape."""
    return Rulebook.model_validate(_read("advice_rules.json"))


def courses() -> list[Course]:
    """All courses of the catalogue, those of other factories too: advice may point to any of them."""
    return [
        Course(
            id=one.id,
            revision=0,
            factory_id=one.provider_factory_id,
            title=one.title,
            description=one.description,
            kind=one.kind,
            level=one.level,
            topics=one.topics,
            prerequisites=one.prerequisites,
            language=one.language,
            hours=one.hours,
            example=catalogue().nature == "example",
        )
        for one in catalogue().courses
    ]


def sessions(factory_id: FactoryId, first_day: datetime) -> list[Session]:
    """The sessions one factory gives. Seats of another factory's sessions are booked there, so they are left out.

    Args:
        first_day: a moment of the day from which `starts_in_days` counts; all begin at 08:00 UTC.
    """
    found = []
    for course in catalogue().courses:
        if course.provider_factory_id != factory_id:
            continue
        for one in course.sessions:
            day = first_day.astimezone(UTC).date() + timedelta(days=one.starts_in_days)
            begin = datetime.combine(day, BEGINS_AT)
            found.append(
                Session(
                    id=one.id,
                    course_id=course.id,
                    factory_id=factory_id,
                    title=course.title,
                    starts_at=begin,
                    ends_at=begin + timedelta(hours=course.hours),
                    teaching=one.mode,
                    seats=one.seats,
                )
            )
    return found


def rules() -> list[Rule]:
    """The rules of advice."""
    return [
        Rule(
            id=one.id,
            course_id=one.suggest,
            because=one.because,
            gpu_vendor=one.when.gpu_vendor,
            mode=one.when.mode_id,
        )
        for one in rulebook().rules
    ]


def _read(name: str) -> object:
    content: object = json.loads(files("aifn_skills").joinpath("seed", name).read_text(encoding="utf-8"))
    return content
