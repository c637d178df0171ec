"""Routes every service has for those who run it: dead letters and their replay."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Path, Query
from pydantic import BaseModel, Field

from aifn_common import dead_letters
from aifn_common.cursors import number_in
from aifn_common.settings import ServiceSettings
from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router, settings_of

router = make_router()
Settings = Annotated[ServiceSettings, Depends(settings_of)]


class DeadLetterView(BaseModel):
    """A message that was set aside."""

    id: int = Field(examples=[7])
    consumer: str = Field(examples=["accounting-job-placed-v1"])
    topic: str = Field(examples=["aifn-job-placed-v1"])
    partition: int = Field(examples=[0])
    offset: int = Field(examples=[42])
    code: str = Field(examples=["invalid_payload"])
    reason: str = Field(examples=["amount: Input should be greater than or equal to 0"])
    details: dict[str, Any]
    set_aside_at: datetime
    replayed_at: datetime | None
    replayed_by: str | None


class Replayed(BaseModel):
    """Where a message was sent again."""

    topic: str = Field(examples=["aifn-job-placed-v1"])


@router.get("/dead-letters", summary="Messages that were set aside", tags=["operations"])
async def list_dead_letters(
    tx: Tx,
    who: Who,
    settings: Settings,
    page: Paging,
    topic: Annotated[str | None, Query(max_length=200)] = None,
) -> Page[DeadLetterView]:
    who.must("deadletter.read", factory=settings.factory)
    rows = await dead_letters.list_them(tx, after=number_in(page.after), topic=topic, limit=page.limit + 1)
    return make_page([DeadLetterView(**row) for row in rows], page.limit, lambda view: str(view.id))


@router.post("/dead-letters/{number}/replay", summary="Send a message again", tags=["operations"])
async def replay_dead_letter(
    number: Annotated[int, Path(ge=1, le=2**63 - 1)], tx: Tx, who: Who, settings: Settings
) -> Replayed:
    who.must("deadletter.replay", factory=settings.factory)
    return Replayed(topic=await dead_letters.replay(tx, number, by=who.subject))
