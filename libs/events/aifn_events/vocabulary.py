"""Identifiers, moments and units that every site agrees on."""

import secrets
import time
from datetime import UTC, date, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, PlainSerializer

_SLUG = r"^[a-z0-9][a-z0-9-]{0,62}$"
MAX_AMOUNT = 2**63 - 1


def _written_out(value: object) -> object:
    """Refuse a moment given as a number, or as a text of digits: seconds and milliseconds cannot be told apart."""
    if isinstance(value, int | float) or (isinstance(value, str) and value[4:5] != "-"):
        raise ValueError("write it out, e.g. 2026-11-21T09:00:00Z")
    return value


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it lies outside the years 1 to 9999") from None


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


Moment = Annotated[
    AwareDatetime,
    BeforeValidator(_written_out),
    AfterValidator(_in_utc),
    PlainSerializer(_rfc3339, return_type=str, when_used="json"),
]
"""An instant: aware, kept in UTC, written as RFC 3339."""

Day = Annotated[date, BeforeValidator(_written_out)]
"""A day of the UTC calendar, written as 2026-11-21."""

Flag = Annotated[bool, Field(strict=True)]
"""Yes or no; the words "yes" and "no" are neither."""

Amount = Annotated[int, Field(strict=True, ge=0, le=MAX_AMOUNT)]
"""How much of a resource, in whole units of that resource (slice-seconds for compute)."""

# A bound belongs into the type: one given again beside a field, as in `nodes: Count = Field(ge=1)`, is ignored.
Count = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
PositiveCount = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
PositiveSeconds = Annotated[int, Field(strict=True, ge=1, le=10 * 366 * 86_400)]
Revision = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)]
"""Grows by at least one with each new word on the same thing; the highest one counts."""

Slug = Annotated[str, Field(pattern=_SLUG)]
FactoryId = Annotated[Slug, Field(description="an AI Factory or antenna", examples=["lumi-aif"])]
MachineId = Annotated[Slug, Field(description="a supercomputer", examples=["lumi"])]
PartitionId = Annotated[Slug, Field(description="a part of a machine with nodes of one kind", examples=["lumi-g"])]
ProjectId = Annotated[Slug, Field(description="what an award is given to", examples=["aif-2026-0117"])]
ApplicationId = Annotated[Slug, Field(examples=["app-0198c7d2"])]
AwardId = Annotated[Slug, Field(examples=["award-0198c7d3"])]
AllocationId = Annotated[
    Slug, Field(description="an amount of one resource granted to a project", examples=["alloc-0198c7d4"])
]
JobId = Annotated[Slug, Field(description="a job in the whole network", examples=["lumi-aif-0198c7d2"])]
DatasetId = Annotated[Slug, Field(examples=["finnish-speech"])]
CourseId = Annotated[Slug, Field(examples=["rocm-porting"])]
ModeId = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$", description="an access mode", examples=["aif_playground"])]
RateCardId = Annotated[Slug, Field(examples=["as-reported"])]
ResourceId = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*/[a-z0-9][a-z0-9-]*$",
        max_length=190,
        description="what an account holds: machine/partition/kind; compute is counted in slice-seconds",
        examples=["lumi/lumi-g/gpu-time"],
    ),
]
Subject = Annotated[
    str,
    Field(
        min_length=1,
        max_length=255,
        description="a person, as the identity provider names them",
        examples=["7c1d@myaccessid"],
    ),
]
Text = Annotated[str, Field(max_length=4000)]
Workload = Literal["training", "fine_tuning", "inference", "other"]
CountryCode = Annotated[str, Field(pattern=r"^[A-Z]{2}$", examples=["FI"])]


def new_id() -> str:
    """Make a UUID version 7 (RFC 9562): unique, and later ones sort after earlier ones by the millisecond."""
    moment = time.time_ns() // 1_000_000
    value = (moment << 80) | (7 << 76) | (secrets.randbits(12) << 64) | (2 << 62) | secrets.randbits(62)
    return str(UUID(int=value))


def short_id(prefix: str) -> str:
    """Name a new thing so that people can read the name aloud: `job-0198c7d2a1b3-4f2a9c`, sortable by time."""
    raw = new_id().replace("-", "")
    return f"{prefix}-{raw[:12]}-{raw[-6:]}"
