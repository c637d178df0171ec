"""What all facts have in common: an identity and an origin, which travel beside the payload and not inside it."""

from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from aifn_events.vocabulary import Moment, new_id

ATTRIBUTES = ("id", "source", "time", "traceparent")
"""Fields of every event that are CloudEvents attributes: in the headers of the message, never in its JSON value."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Payload(BaseModel):
    """A frozen part of a message. Fields it does not know are ignored, so that a sender may be newer."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def example(cls, **values: Any) -> Self:
        """Build an instance from the examples in the contract; `values` replace some of them."""
        return cls.model_validate(cls._examples() | values)

    @classmethod
    def _examples(cls) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            if name not in ATTRIBUTES and field.examples:
                found[name] = field.examples[0]
        return found


class Event(Payload):
    """A fact one service tells the others. Past tense, versioned topic, a key chosen for order."""

    topic: ClassVar[str]
    key_field: ClassVar[str]

    id: SkipJsonSchema[str] = Field(default_factory=new_id, exclude=True, min_length=1, max_length=128)
    source: SkipJsonSchema[str] = Field(default="", exclude=True, max_length=255)
    time: SkipJsonSchema[Moment] = Field(default_factory=_utc_now, exclude=True)
    traceparent: SkipJsonSchema[str | None] = Field(default=None, exclude=True, max_length=64)

    @classmethod
    @cache
    def type_name(cls) -> str:
        """The CloudEvents type, e.g. `eu.aifn.job-placed.v1` for the topic `aifn-job-placed-v1`."""
        fact, version = cls.topic.removeprefix("aifn-").rsplit("-", 1)
        return f"eu.aifn.{fact}.{version}"

    @property
    def key(self) -> str:
        """The value of the key field: messages with one key keep their order."""
        return str(getattr(self, self.key_field))
