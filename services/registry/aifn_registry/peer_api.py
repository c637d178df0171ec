"""What other members have told and this member's gate has verified: capacity, catalogues, courses, knowledge, usage."""

from datetime import datetime
from typing import Annotated, Any, Literal

from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router, settings_of
from fastapi import Depends, Query
from pydantic import AwareDatetime, BaseModel, Field

from aifn_registry import peer_store
from aifn_registry.settings import RegistrySettings

router = make_router()
PublicStream = Literal["capacity", "catalogue", "skills", "knowledge", "access", "usage", "usage-summary"]
MEASURED = ("usage", "usage-summary")


class PeerFactView(BaseModel):
    """A fact of another member, as it signed it."""

    origin: str = Field(examples=["bsc-aif"])
    stream: str = Field(examples=["capacity"])
    record_key: str = Field(examples=["bsc-aif/mn5-acc"])
    epoch: int = Field(examples=[1])
    seq: int = Field(examples=[42])
    fact: str = Field(description="CloudEvents type", examples=["eu.aifn.capacity-reported.v1"])
    source: str = Field(examples=["urn:aifn:bsc-aif:siteagent"])
    told_at: datetime = Field(description="by the owner's clock")
    heard_at: datetime = Field(description="by ours")
    data: dict[str, Any] = Field(description="in the schema of `fact`")


@router.get("/peers/facts", summary="What other members have told", tags=["peers"])
async def list_peer_facts(
    tx: Tx,
    who: Who,
    page: Paging,
    settings: Annotated[RegistrySettings, Depends(settings_of)],
    stream: PublicStream,
    origin: Annotated[str | None, Query(pattern=r"^[a-z0-9-]{2,20}$", description="only of this member")] = None,
    since: Annotated[AwareDatetime | None, Query(description="only what was heard since then")] = None,
) -> Page[PeerFactView]:
    """The newest word on each thing, in the order of their keys. Sums of usage are for those who may see usage here."""
    if stream in MEASURED:
        who.must("usage.read", factory=settings.factory)
    else:
        who.must("machine.read")
    rows = await peer_store.list_facts(tx, stream, origin=origin, since=since, after=page.after, limit=page.limit + 1)
    return make_page([PeerFactView(**dict(row)) for row in rows], page.limit, lambda view: view.record_key)
