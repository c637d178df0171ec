"""What accounting answers on people: contracts, who used what, closing a project, the trail, other resources."""

from typing import Annotated

from aifn_common.cursors import number_in
from aifn_common.errors import Invalid
from aifn_common.web import Page, Paging, Tx, Who, check_if_match, make_page, make_router, set_etag, settings_of
from aifn_events.vocabulary import Moment, ProjectId, Subject
from fastapi import Depends, Path, Query, Request, Response

from aifn_accounting.actions import people, projects
from aifn_accounting.actions.allocations import CONTRACT_MONTHS
from aifn_accounting.api.cursors import two_words_in
from aifn_accounting.domain.policies import contract_needed
from aifn_accounting.people_views import ChangeView, PersonView, PersonWords, UseView
from aifn_accounting.pool_views import Because, ResourceCreation, ResourceView
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import decisions, ledger
from aifn_accounting.store import people as people_store
from aifn_accounting.views import ProjectView

router = make_router()
Settings = Annotated[AccountingSettings, Depends(settings_of)]
ThisPerson = Annotated[Subject, Path(description="a member")]


@router.post("/projects/{project_id}/closure", summary="Close a project", tags=["projects"])
async def close_project(
    project_id: ProjectId, words: Because, tx: Tx, who: Who, request: Request, response: Response
) -> ProjectView:
    """Needs If-Match, and that no job holds budget. Late usage is charged still; nothing else happens any more."""
    project = await ledger.get_project(tx, project_id)
    who.must("project.close", factory=project.factory_id)
    project = await ledger.get_project(tx, project_id, lock=True)
    check_if_match(request, project.revision)
    closed = await projects.close_project(tx, project, by=who.subject, reason=words.reason)
    set_etag(response, closed.revision)
    return ProjectView.of(closed)


@router.get("/projects/{project_id}/people", summary="Members, contracts, names at the site", tags=["people"])
async def list_people(project_id: ProjectId, tx: Tx, who: Who, page: Paging) -> Page[PersonView]:
    """For those who lead the project or manage its factory's allocations."""
    project = await ledger.get_project(tx, project_id)
    who.must("person.read", project=project.id, factory=project.factory_id)
    last_end = await people_store.last_end(tx, project.id)
    needed = None if last_end is None else contract_needed(last_end, CONTRACT_MONTHS)
    found = await people_store.list_people(tx, project.id, after=page.after, limit=page.limit + 1)
    return make_page([PersonView.of(one, needed) for one in found], page.limit, lambda view: view.subject)


@router.put("/projects/{project_id}/people/{subject}", summary="Say what is known of a member", tags=["people"])
async def put_person(
    project_id: ProjectId,
    subject: ThisPerson,
    words: PersonWords,
    tx: Tx,
    who: Who,
    request: Request,
    response: Response,
) -> PersonView:
    """Until when the contract runs, and the name at the site; needs If-Match with the person's revision."""
    project = await ledger.get_project(tx, project_id, lock=True)
    who.must("person.write", factory=project.factory_id)
    before = await people_store.get_person(tx, project.id, subject)
    check_if_match(request, before.revision)
    after = await people.describe_person(
        tx,
        project,
        subject,
        contract_ends_on=words.contract_ends_on,
        local_user=words.local_user,
        by=who.subject,
        reason=words.reason,
    )
    set_etag(response, after.revision)
    last_end = await people_store.last_end(tx, project.id)
    return PersonView.of(after, None if last_end is None else contract_needed(last_end, CONTRACT_MONTHS))


@router.get("/projects/{project_id}/usage-by-person", summary="Who used how much", tags=["people"])
async def list_use_by_person(
    project_id: ProjectId,
    tx: Tx,
    who: Who,
    page: Paging,
    since: Annotated[Moment | None, Query(description="only what ended at this moment or later")] = None,
    until: Annotated[Moment | None, Query(description="only what ended before it")] = None,
) -> Page[UseView]:
    """Names for those who lead the project or manage the factory's allocations; a member sees the own use; others,
    such as an auditor, see pseudonyms.
    """
    project = await ledger.get_project(tx, project_id)
    who.must("usage.read", project=project.id, factory=project.factory_id)
    if since is not None and until is not None and since >= until:
        raise Invalid("`until` is not after `since`")
    names = who.may("person.read", project=project.id, factory=project.factory_id)
    everyone = names or who.may("usage.read", factory=project.factory_id)
    found = await people_store.use_by_person(
        tx,
        project.id,
        since=since,
        until=until,
        subject=None if everyone else who.subject,
        after=two_words_in(page.after),
        limit=page.limit + 1,
    )
    views = [UseView.of(one, names=names or not everyone) for one in found]
    return make_page(views, page.limit, lambda view: f"{view.user} {view.resource}")


@router.get("/changes", summary="Who changed what, when and why", tags=["changes"])
async def list_changes(
    tx: Tx,
    who: Who,
    page: Paging,
    thing: Annotated[str | None, Query(max_length=40, description="pool, cap, allocation, project, ...")] = None,
    thing_id: Annotated[str | None, Query(max_length=255, description="only of this one")] = None,
    project: Annotated[ProjectId | None, Query(description="only of this project")] = None,
    actor: Annotated[str | None, Query(max_length=255, description="only by this person")] = None,
) -> Page[ChangeView]:
    """Oldest first, with what it was before and after; nobody can change it."""
    scope = who.scope("change.read")
    found = await decisions.list_changes(
        tx,
        everything=scope.everything,
        factories=scope.factories,
        thing=thing,
        thing_id=thing_id,
        project_id=project,
        actor=actor,
        after=number_in(page.after),
        limit=page.limit + 1,
    )
    return make_page([ChangeView.of(one) for one in found], page.limit, lambda view: str(view.number))


@router.get("/resources", summary="Everything that is counted", tags=["resources"])
async def list_resources(tx: Tx, who: Who, page: Paging) -> Page[ResourceView]:
    """Time on partitions, and what was registered: credits, hours of experts, bytes."""
    who.must("share.read")
    found = await people_store.list_resources(tx, after=page.after, limit=page.limit + 1)
    views = [ResourceView(resource=one.id, unit=one.unit, title=one.title, factory_ids=one.factories) for one in found]
    return make_page(views, page.limit, lambda view: view.resource)


@router.post("/resources", status_code=201, summary="Make something countable", tags=["resources"])
async def register_resource(words: ResourceCreation, tx: Tx, who: Who, settings: Settings) -> ResourceView:
    """What no machine brings, with a unit of its own; it can then be put into pools and granted."""
    who.must("resource.write", factory=settings.factory)
    await people.register_resource(
        tx,
        words.resource,
        unit=words.unit,
        title=words.title,
        factory_id=settings.factory,
        by=who.subject,
        reason=words.reason,
    )
    return ResourceView(resource=words.resource, unit=words.unit, title=words.title, factory_ids=[settings.factory])
