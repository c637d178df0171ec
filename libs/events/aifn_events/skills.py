"""Facts about training: what can be learnt, and advice that something caused."""

from typing import ClassVar

from pydantic import Field

from aifn_events.base import Event
from aifn_events.vocabulary import Count, CourseId, FactoryId, Moment, ProjectId, Slug, Text


class SessionScheduled(Event):
    """A course takes place, with so many seats; said again when the free seats change."""

    topic: ClassVar[str] = "aifn-session-scheduled-v1"
    key_field: ClassVar[str] = "session_id"

    session_id: Slug = Field(examples=["rocm-porting-2026-12"])
    course_id: CourseId = Field(examples=["rocm-porting"])
    factory_id: FactoryId = Field(examples=["lumi-aif"])
    title: str = Field(max_length=200, examples=["Porting to ROCm"])
    starts_at: Moment = Field(examples=["2026-12-03T08:00:00Z"])
    seats: Count = Field(examples=[30])
    seats_free: Count = Field(examples=[12])


class CourseSuggested(Event):
    """A course was suggested to a project, because of an event that is named."""

    topic: ClassVar[str] = "aifn-course-suggested-v1"
    key_field: ClassVar[str] = "project_id"

    suggestion_id: Slug = Field(examples=["sug-0198c7d6"])
    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    course_id: CourseId = Field(examples=["rocm-porting"])
    rule: str = Field(max_length=80, examples=["first-amd-project"])
    because: Text = Field(examples=["first project of aif-2026-0117 on an AMD machine"])
    cause_topic: str = Field(max_length=120, examples=["aifn-award-granted-v1"])
    cause_id: str = Field(max_length=128, examples=["0198c7d2-0000-7000-8000-000000000000"])
    cause_source: str = Field(max_length=255, examples=["urn:aifn:lumi-aif:scheduler"])
