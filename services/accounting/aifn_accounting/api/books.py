"""What accounting answers: projects, what they may use, what they used, and whether the books are right."""

from datetime import date
from typing import Annotated

from aifn_common import access
from aifn_common.cursors import numbers_in
from aifn_common.database import reading
from aifn_common.errors import Invalid
from aifn_common.membership import projects_of
from aifn_common.web import (
    Asker,
    Db,
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
from aifn_events.vocabulary import AllocationId, JobId, MachineId, ProjectId
from fastapi import Depends, Query, Request, Response

from aifn_accounting.actions import allocations, approvals, grants, projects
from aifn_accounting.api.allocations import grant_permission
from aifn_accounting.people_views import ApprovalView
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import ledger, reads
from aifn_accounting.views import (
    AllocationView,
    Grant,
    JobChargesView,
    Members,
    ProjectCreation,
    ProjectDetailView,
    ProjectView,
    SiteDayView,
    TransferView,
    UsageEventView,
    VerificationView,
)

router = make_router()
Settings = Annotated[AccountingSettings, Depends(settings_of)]


def _day(cursor: str | None) -> date | None:
    """The day in a cursor. Raises Invalid."""
    try:
        return None if cursor is None else date.fromisoformat(cursor)
    except ValueError:
        raise Invalid("`after` is not a cursor that a page of this list gave") from None


# Projects


@router.get("/projects", summary="Projects you may see", tags=["projects"])
async def list_projects(tx: Tx, who: Who, page: Paging) -> Page[ProjectView]:
    """Your own, or all of your factory, in the order of their ids."""
    scope = who.scope("project.read")
    found = await ledger.list_projects(
        tx,
        everything=scope.everything,
        projects=scope.projects,
        factories=scope.factories,
        after=page.after,
        limit=page.limit + 1,
    )
    return make_page([ProjectView.of(one) for one in found], page.limit, lambda view: view.project_id)


@router.get("/projects/{project_id}", summary="One project and who belongs to it", tags=["projects"])
async def get_project(
    project_id: ProjectId, tx: Tx, who: Who, request: Request, response: Response
) -> ProjectDetailView:
    """With its ETag, which a change of members must name."""
    project = await ledger.get_project(tx, project_id)
    who.must("project.read", project=project.id, factory=project.factory_id)
    not_modified(request, project.revision)
    set_etag(response, project.revision)
    return ProjectDetailView.with_members(project, await ledger.list_members(tx, project.id))


@router.post("/projects", status_code=201, summary="Make a project without an award", tags=["projects"])
async def create_project(
    new: ProjectCreation, tx: Tx, who: Who, response: Response, settings: Settings
) -> ProjectDetailView:
    """For what the host grants from its own share."""
    who.must("allocation.grant", factory=settings.factory)
    project = await projects.create_project(
        tx,
        project_id=new.project_id,
        title=new.title,
        factory_id=settings.factory,
        principal_investigator=new.principal_investigator,
        by=who.subject,
    )
    set_etag(response, project.revision)
    response.headers["location"] = f"/v1/projects/{project.id}"
    return ProjectDetailView.with_members(project, await ledger.list_members(tx, project.id))


@router.put("/projects/{project_id}/members", summary="Say who belongs to a project", tags=["projects"])
async def put_members(
    project_id: ProjectId, words: Members, tx: Tx, who: Who, request: Request, response: Response
) -> ProjectDetailView:
    """The whole list; needs If-Match with the ETag of the project."""
    project = await ledger.get_project(tx, project_id, lock=True)
    who.must("member.write", project=project.id, factory=project.factory_id)
    check_if_match(request, project.revision)
    members = {one.subject: one.role for one in words.members}
    if len(members) < len(words.members):
        raise Invalid("somebody stands in the list twice")
    changed = await projects.change_members(tx, project, members, by=who.subject, reason=words.reason)
    set_etag(response, changed.revision)
    return ProjectDetailView.with_members(changed, await ledger.list_members(tx, project.id))


# Allocations


@router.get("/projects/{project_id}/allocations", summary="What a project may use", tags=["allocations"])
async def list_allocations(project_id: ProjectId, db: Db, asker: Asker, page: Paging) -> Page[AllocationView]:
    """Balances in the resource's own unit, and in hours for people; in the order they were opened."""
    (after,) = numbers_in(page.after, 1)
    asked = reads.StandingsAsked(project_id, after, page.limit + 1, asker.subject)
    found, role = await reads.list_standings(db, asked)
    if found:
        factory = found[0].factory_id
        asker.join([access.Grant(role, "project", project_id)] if role else [])
    else:  # nothing that would say whose it is
        async with reading(db) as tx:
            factory = (await ledger.get_project(tx, project_id)).factory_id
            asker.join(await projects_of(tx, asker.subject))
    asker.must("allocation.read", project=project_id, factory=factory)
    shown = make_page(found, page.limit, lambda one: str(one.number))
    return Page(items=[AllocationView.of(one) for one in shown.items], next=shown.next)


@router.post(
    "/projects/{project_id}/allocations",
    status_code=201,
    summary="Grant a project something",
    tags=["allocations"],
    responses={202: {"model": ApprovalView, "description": "it waits for a second person"}},
)
async def grant_allocation(
    project_id: ProjectId, words: Grant, tx: Tx, who: Who, response: Response, settings: Settings
) -> AllocationView | ApprovalView:
    """With a reason, for those who ask later; send an Idempotency-Key, so that a repetition grants nothing.

    A large one waits for a second person; then the answer is 202, and nothing has been taken out of a pool.
    """
    project = await ledger.get_project(tx, project_id)
    permission = await grant_permission(tx, words.pool_id)
    who.must(permission, factory=project.factory_id)
    await grants.check_grantable(tx, project, words.resource, words.unit)
    await allocations.check_contracts(tx, project.id, words.ends_at)
    said = words.model_dump(mode="json")
    if await approvals.grant_needs_approval(tx, project.id, words.resource, words.amount, settings.second_person_above):
        asked = await approvals.ask(
            tx,
            what="grant",
            factory_id=project.factory_id,
            project_id=project.id,
            permission=permission,
            words=said,
            amount=words.amount,
            by=who.subject,
        )
        response.status_code = 202
        return ApprovalView.of(asked)
    allocation = await grants.grant(
        tx,
        project,
        words.resource,
        amount=words.amount,
        pool=words.pool,
        starts_at=words.starts_at,
        ends_at=words.ends_at,
        unit=words.unit,
        reason=words.reason,
        by=who.subject,
        terms=grants.Terms(
            mode=words.mode,
            policy_version=words.policy_version,
            pool_id=words.pool_id,
            earmark=words.earmark,
            use_or_lose=words.use_or_lose,
            inference_cap_pct=words.inference_cap_pct,
        ),
    )
    response.headers["location"] = f"/v1/allocations/{allocation.id}"
    set_etag(response, 0)
    return AllocationView.of(await reads.get_standing(tx, allocation.id))


@router.get("/allocations/{allocation_id}", summary="One allocation", tags=["allocations"])
async def get_allocation(allocation_id: AllocationId, tx: Tx, who: Who, response: Response) -> AllocationView:
    """Its balances at this moment, and the ETag that a top-up or an extension must name."""
    found = await reads.get_standing(tx, allocation_id)
    who.must("allocation.read", project=found.project_id, factory=found.factory_id)
    set_etag(response, found.revision)
    return AllocationView.of(found)


@router.get("/allocations/{allocation_id}/statement", summary="Every posting of an allocation", tags=["allocations"])
async def get_statement(allocation_id: AllocationId, tx: Tx, who: Who, page: Paging) -> Page[TransferView]:
    """Oldest first; the postings of an account sum to its balance."""
    allocation = await reads.get_standing(tx, allocation_id)
    who.must("allocation.read", project=allocation.project_id, factory=allocation.factory_id)
    (after,) = numbers_in(page.after, 1)
    found = await reads.list_transfers(tx, allocation.number, after=after, limit=page.limit + 1)
    return make_page([TransferView.of(one) for one in found], page.limit, lambda view: str(view.transfer_id))


# Usage


@router.get("/usage-events", summary="All that was ever charged", tags=["usage"])
async def list_usage_events(
    tx: Tx,
    who: Who,
    page: Paging,
    project: Annotated[ProjectId | None, Query(description="only of this project")] = None,
) -> Page[UsageEventView]:
    """From the first record on, in the order in which it became known: as `aifn-usage-charged-v1`, kept for ever.

    A new record only ever comes after those that were read. So every page with items has a `next`, the last one too:
    ask again with it later, and an empty page says that there is nothing new.
    """
    scope = who.scope("usage.read")
    usage_number, allocation_number = numbers_in(page.after, 2)
    found = await reads.list_charges(
        tx,
        everything=scope.everything,
        projects=scope.projects,
        factories=scope.factories,
        project_id=project,
        after=(usage_number, allocation_number),
        limit=page.limit + 1,
    )
    shown = make_page(found + found[-1:], min(page.limit, len(found)), _place)
    return Page(items=[UsageEventView.of(one) for one in shown.items], next=shown.next)


def _place(one: reads.Charged) -> str:
    return f"{one.usage_number}-{one.allocation_number}"


@router.get("/jobs/{job_id}/charges", summary="What a job holds and costs", tags=["usage"])
async def get_job_charges(job_id: JobId, tx: Tx, who: Who) -> JobChargesView:
    """To its own project; the latest revision of each of its segments."""
    job = await reads.get_job(tx, job_id)
    project = await ledger.find_project(tx, job.project_id)
    who.must("usage.read", project=job.project_id, factory=project.factory_id if project else None)
    return JobChargesView.of(job, await reads.charges_of_job(tx, job))


@router.get("/completeness", summary="Whether all usage of a site has arrived, day by day", tags=["usage"])
async def list_completeness(
    tx: Tx, who: Who, page: Paging, settings: Settings, machine: Annotated[MachineId, Query(description="the site")]
) -> Page[SiteDayView]:
    """The days for which the site has made a statement, oldest first."""
    who.must("completeness.read", factory=settings.factory)
    found = await reads.list_days(tx, machine, after=_day(page.after), limit=page.limit + 1)
    return make_page([SiteDayView.of(one) for one in found], page.limit, lambda view: view.day.isoformat())


# The books


@router.get("/ledger/verify", summary="Whether the ledger holds", tags=["ledger"])
async def verify_ledger(tx: Tx, who: Who, settings: Settings) -> VerificationView:
    """Every check with its numbers; it reads the whole ledger, so it takes its time."""
    who.must("ledger.verify", factory=settings.factory)
    return VerificationView.of(await reads.verify(tx))
