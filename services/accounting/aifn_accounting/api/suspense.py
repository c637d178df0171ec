"""Usage that no allocation can pay yet: seen by those who look after a site's books, and given to a project by them."""

from datetime import datetime
from typing import Annotated, Self

from aifn_common.cursors import number_in
from aifn_common.web import Page, Paging, Tx, Who, make_page, make_router, settings_of
from aifn_events.vocabulary import JobId, MachineId, ProjectId, ResourceId
from fastapi import Depends, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from aifn_accounting.actions import usage
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import suspense

router = make_router()
Settings = Annotated[AccountingSettings, Depends(settings_of)]


class SuspenseView(BaseModel):
    """A usage record that waits for an allocation of the project that is to pay."""

    usage_number: int = Field(description="as in usage events", examples=[4711])
    project_id: ProjectId = Field(description="which is to pay", examples=["aif-2026-0001"])
    reported_project: ProjectId = Field(description="as the site reported", examples=["aif-2026-0010"])
    since: datetime
    attributed_by: str | None = Field(description="who said that another project pays", examples=["anna"])
    attributed_at: datetime | None
    reason: str | None
    machine_id: MachineId
    local_job_id: str
    segment: int
    revision: int
    job_id: JobId
    started_at: datetime
    ended_at: datetime
    amounts: dict[ResourceId, int]

    @classmethod
    def of(cls, one: suspense.Waiting) -> Self:
        """As the API shows it: no local user."""
        return cls.model_validate({name: getattr(one, name) for name in cls.model_fields})


class Attribution(BaseModel):
    """Which project pays, and why."""

    model_config = ConfigDict(extra="forbid")

    project_id: ProjectId = Field(examples=["aif-2026-0001"])
    reason: str = Field(min_length=3, max_length=500, examples=["mistyped at the site, ticket 4711"])


@router.get("/suspense", summary="Usage that nobody can pay yet", tags=["usage"])
async def list_suspense(
    tx: Tx,
    who: Who,
    page: Paging,
    settings: Settings,
    project: Annotated[ProjectId | None, Query(description="only what this project is to pay")] = None,
) -> Page[SuspenseView]:
    """Its project is unknown here, or has no allocation of what was used. It is charged once there is one."""
    who.must("suspense.read", factory=settings.factory)
    found = await suspense.list_waiting(tx, project=project, after=number_in(page.after), limit=page.limit + 1)
    return make_page([SuspenseView.of(one) for one in found], page.limit, lambda view: str(view.usage_number))


@router.post("/suspense/{usage_number}/attribution", status_code=204, summary="Say which project pays", tags=["usage"])
async def attribute_usage(
    usage_number: Annotated[int, Path(ge=1, le=2**63 - 1)], words: Attribution, tx: Tx, who: Who, settings: Settings
) -> Response:
    """Charged at once if the project has an allocation, else as soon as it has."""
    who.must("suspense.write", factory=settings.factory)
    await usage.attribute_usage(tx, usage_number, words.project_id, by=who.subject, reason=words.reason)
    return Response(status_code=204)
