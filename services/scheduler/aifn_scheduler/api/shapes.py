"""Shapes that both stories of the API share."""

from typing import Annotated

from aifn_common.errors import Invalid
from aifn_common.web import settings_of
from fastapi import Depends
from pydantic import BaseModel, ConfigDict, StringConstraints

from aifn_scheduler.settings import SchedulerSettings

Settings = Annotated[SchedulerSettings, Depends(settings_of)]
Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]


class Body(BaseModel):
    """What is sent to us: a field we do not know is a mistake of the sender."""

    model_config = ConfigDict(extra="forbid")


def plain_in(cursor: str) -> str:
    if "\x00" in cursor:
        raise Invalid("`after` is not a cursor that a page of this list gave")
    return cursor
