"""What accounting answers on what becomes of allocations, and who approves: top-ups, extensions, limits, approvals."""

from typing import Annotated, Literal

from aifn_common import clock
from aifn_common.cursors import number_in
from aifn_common.web import Page, Paging, Tx, Who, check_if_match, make_page, make_router, settings_of
from aifn_events.vocabulary import AllocationId, Moment, ProjectId, ResourceId, Slug
from fastapi import Depends, Path, Query, Request, Response

from aifn_accounting.actions import allocations, approvals
from aifn_accounting.domain import policies
from aifn_accounting.domain.policies import UseOrLose
from aifn_accounting.people_views import (
    ApprovalView,
    Decision,
    Extension,
    InferenceView,
    LimitsView,
    QuotaView,
    TopUp,
)
from aifn_accounting.policy_data import extension_rule, use_or_lose_policies
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import allocations as store
from aifn_accounting.store import decisions, pools, reads
from aifn_accounting.views import AllocationView

router = make_router()
Settings = Annotated[AccountingSettings, Depends(settings_of)]
ApprovalId = Annotated[Slug, Path(description="what waits for a decision", examples=["appr-0198c7d2a1b3-4f2a9c"])]


async def grant_permission(tx: Tx, pool_id: str | None) -> str:
    """Whose word a grant needs: a fund's manager gives out of a fund, an allocation manager out of a share."""
    if pool_id is None:
        return "allocation.grant"
    return "fund.grant" if (await pools.find_pool(tx, pool_id)).kind == "fund" else "allocation.grant"


@router.get("/allocations", summary="Allocations, of all projects you may see", tags=["allocations"])
async def list_all_allocations(
    tx: Tx,
    who: Who,
    page: Paging,
    resource: Annotated[ResourceId | None, Query(description="only of this resource")] = None,
    pool_id: Annotated[Slug | None, Query(description="only out of this pool")] = None,
    mode: Annotated[str | None, Query(max_length=64, description="only under this access mode")] = None,
    active_at: Annotated[Moment | None, Query(description="only those usable at this moment")] = None,
    ends_before: Annotated[Moment | None, Query(description="only those that end before it")] = None,
    overrun: Annotated[bool, Query(description="only those that are overrun")] = False,
) -> Page[AllocationView]:
    """In the order in which they were opened."""
    scope = who.scope("allocation.read")
    found = await store.list_numbers(
        tx,
        everything=scope.everything,
        projects=scope.projects,
        factories=scope.factories,
        resource=resource,
        pool_id=pool_id,
        mode=mode,
        active_at=active_at,
        ends_before=ends_before,
        overrun=overrun,
        after=number_in(page.after),
        limit=page.limit + 1,
    )
    shown = make_page(found, page.limit, str)
    return Page(items=[AllocationView.of(one) for one in await reads.standings(tx, shown.items)], next=shown.next)


@router.post(
    "/allocations/{allocation_id}/top-ups",
    summary="Grant an allocation more",
    tags=["allocations"],
    responses={202: {"model": ApprovalView, "description": "it waits for a second person"}},
)
async def top_up(
    allocation_id: AllocationId,
    words: TopUp,
    tx: Tx,
    who: Who,
    request: Request,
    response: Response,
    settings: Settings,
) -> AllocationView | ApprovalView:
    """Out of the pool it came from; needs If-Match. An overrun is paid first. A large one waits for a second person."""
    terms = await store.get_terms(tx, allocation_id)
    permission = await grant_permission(tx, terms.pool_id)
    who.must(permission, factory=terms.factory_id)
    check_if_match(request, terms.revision)
    if await approvals.top_up_needs_approval(tx, terms, words.amount, settings.second_person_above):
        asked = await approvals.ask(
            tx,
            what="top_up",
            factory_id=terms.factory_id,
            project_id=terms.project_id,
            permission=permission,
            words=words.model_dump(mode="json"),
            amount=words.amount,
            by=who.subject,
            allocation_id=allocation_id,
        )
        response.status_code = 202
        return ApprovalView.of(asked)
    await allocations.top_up(tx, allocation_id, words.amount, by=who.subject, reason=words.reason)
    return AllocationView.of(await reads.get_standing(tx, allocation_id))


@router.post("/allocations/{allocation_id}/extensions", summary="Let an allocation end later", tags=["allocations"])
async def extend(allocation_id: AllocationId, words: Extension, tx: Tx, who: Who, request: Request) -> AllocationView:
    """Needs If-Match. The mode of an award bounds it, and a policy or a contract that ends too early forbids it."""
    terms = await store.get_terms(tx, allocation_id)
    who.must(await grant_permission(tx, terms.pool_id), factory=terms.factory_id)
    check_if_match(request, terms.revision)
    await allocations.extend(tx, allocation_id, words.ends_at, by=who.subject, reason=words.reason)
    return AllocationView.of(await reads.get_standing(tx, allocation_id))


@router.get("/allocations/{allocation_id}/limits", summary="What rules say of an allocation", tags=["allocations"])
async def get_limits(allocation_id: AllocationId, tx: Tx, who: Who) -> LimitsView:
    """Inference, use-or-lose, extension, and how long a contract must run."""
    terms = await store.get_terms(tx, allocation_id)
    who.must("allocation.read", project=terms.project_id, factory=terms.factory_id)
    rule = extension_rule(terms.mode) if terms.award_id is not None else None
    policy = None if terms.use_or_lose is None else use_or_lose_policies()[terms.use_or_lose]
    months = policies.month_starts(terms.starts_at, terms.first_ends_at)
    quota = policies.quota_now(
        starts_at=terms.starts_at,
        ends_at=terms.first_ends_at,
        granted=terms.given,
        used_by_month=await store.used_by_month(tx, terms.number, months),
        now=clock.now(),
    )
    grown = max(terms.given - terms.first_granted, 0)
    return LimitsView(
        allocation_id=terms.id,
        revision=terms.revision,
        given=terms.given,
        expired=terms.expired,
        returned=terms.returned,
        extensions=terms.extensions,
        latest_end=policies.add_months(terms.first_ends_at, rule.months) if rule and rule.months else None,
        growth_left=(
            max(terms.first_granted * rule.amount_pct // 100 - grown, 0) if rule and rule.amount_pct else None
        ),
        contract_needed_until=policies.contract_needed(terms.ends_at, allocations.CONTRACT_MONTHS),
        inference=await _inference(tx, terms),
        use_or_lose=policy,
        month=None if quota is None else QuotaView(**quota._asdict(), over=quota.over),
    )


async def _inference(tx: Tx, terms: store.Terms) -> InferenceView | None:
    if terms.inference_cap_pct is None:
        return None
    limit = policies.inference_limit(terms.given, terms.inference_cap_pct)
    used = await store.inference_used(tx, terms.number)
    return InferenceView(cap_pct=terms.inference_cap_pct, limit=limit, used=used, left=max(limit - used, 0))


@router.get("/use-or-lose-policies", summary="Hosts' rules on hours not used in time", tags=["allocations"])
async def list_policies(who: Who, page: Paging) -> Page[UseOrLose]:
    """Each with its source, and what that leaves open; a pool or a grant may stand under one."""
    who.must("share.read")
    found = [one for name, one in sorted(use_or_lose_policies().items()) if name > (page.after or "")]
    return make_page(found, page.limit, lambda one: one.id)


# A second person


@router.get("/approvals", summary="What waits for a second person, or has waited", tags=["approvals"])
async def list_approvals(
    tx: Tx,
    who: Who,
    page: Paging,
    state: Annotated[Literal["waiting", "approved", "rejected"] | None, Query(description="only these")] = None,
    project: Annotated[ProjectId | None, Query(description="only for this project")] = None,
) -> Page[ApprovalView]:
    """In the order in which they were asked for."""
    scope = who.scope("approval.read")
    found = await decisions.list_approvals(
        tx,
        everything=scope.everything,
        factories=scope.factories,
        state=state,
        project_id=project,
        after=number_in(page.after),
        limit=page.limit + 1,
    )
    shown = make_page(found, page.limit, lambda one: str(one.number))
    return Page(items=[ApprovalView.of(one) for one in shown.items], next=shown.next)


@router.post("/approvals/{approval_id}/decision", summary="Decide on what another person asked for", tags=["approvals"])
async def decide(approval_id: ApprovalId, words: Decision, tx: Tx, who: Who) -> ApprovalView:
    """Needs the permission that asking needed, of another person. If its pool is empty, it goes on waiting."""
    approval = await decisions.get_approval(tx, approval_id, lock=True)
    who.must(approval.permission, factory=approval.factory_id)
    decided = await approvals.decide(tx, approval, approve=words.approve, by=who.subject, reason=words.reason)
    return ApprovalView.of(decided)
