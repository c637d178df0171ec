"""What accounting answers on shares: pools, caps, headroom, and awards that wait for room."""

from datetime import datetime
from typing import Annotated, Literal

from aifn_common import clock
from aifn_common.cursors import number_in
from aifn_common.web import (
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
from aifn_events.vocabulary import AwardId, Moment, ResourceId
from fastapi import Depends, Query, Request, Response

from aifn_accounting.actions import approvals, awards, pools
from aifn_accounting.api.cursors import two_words_in
from aifn_accounting.domain import pools as domain
from aifn_accounting.domain.pools import Asked, Cap, Pool, PoolKind
from aifn_accounting.people_views import ApprovalView
from aifn_accounting.policy_data import CapRule, cap_rules
from aifn_accounting.pool_views import (
    Because,
    CapChange,
    CapCreation,
    CapView,
    ClearingView,
    Funding,
    HeadroomView,
    MovementView,
    PendingAwardView,
    PoolChange,
    PoolCreation,
    PoolView,
    ShareId,
    Withdrawal,
)
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import decisions, people
from aifn_accounting.store import pools as store

router = make_router()
Settings = Annotated[AccountingSettings, Depends(settings_of)]
OfResource = Annotated[ResourceId | None, Query(description="only of this resource")]


def _write(kind: PoolKind) -> str:
    """A fund is its manager's, a share the host's."""
    return "fund.write" if kind == "fund" else "pool.write"


# Pools


@router.get("/pools", summary="Shares of machines, and what is left of them", tags=["pools"])
async def list_pools(
    tx: Tx,
    who: Who,
    page: Paging,
    resource: OfResource = None,
    kind: Annotated[PoolKind | None, Query(description="only of this kind")] = None,
    open_at: Annotated[Moment | None, Query(description="only those open at this moment")] = None,
    parent: Annotated[ShareId | None, Query(description="only those below this pool")] = None,
) -> Page[PoolView]:
    """In the order of their ids; everybody who has a role may see them."""
    scope = who.scope("share.read")
    found = await store.list_pools(
        tx,
        everything=scope.everything,
        factories=scope.factories,
        resource=resource,
        kind=kind,
        open_at=open_at,
        parent=parent,
        after=page.after,
        limit=page.limit + 1,
    )
    return make_page([PoolView.of(one) for one in found], page.limit, lambda view: view.pool_id)


@router.post("/pools", status_code=201, summary="Make a pool", tags=["pools"])
async def create_pool(words: PoolCreation, tx: Tx, who: Who, response: Response, settings: Settings) -> PoolView:
    """With nothing in it. From then on, grants of this resource and kind come out of pools only."""
    who.must(_write(words.kind), factory=settings.factory)
    pool = Pool(
        id=words.pool_id,
        kind=words.kind,
        title=words.title,
        parent=words.parent,
        funder=words.funder,
        factory_id=settings.factory,
        resource=words.resource,
        starts_at=words.starts_at,
        ends_at=words.ends_at,
        funded=0,
        passed_on=0,
        reserved=0,
        earmark=words.earmark,
        use_or_lose=words.use_or_lose,
        most_per_grant=words.most_per_grant,
        longest_days=words.longest_days,
        account=0,
        revision=0,
        created_by=who.subject,
        created_at=clock.now(),
    )
    made = await pools.create_pool(tx, pool, reason=words.reason)
    set_etag(response, made.revision)
    response.headers["location"] = f"/v1/pools/{made.id}"
    return PoolView.of(made)


@router.get("/pools/{pool_id}", summary="One pool", tags=["pools"])
async def get_pool(pool_id: ShareId, tx: Tx, who: Who, request: Request, response: Response) -> PoolView:
    """With its ETag, which a change must name; every grant makes a new one."""
    pool = await store.find_pool(tx, pool_id)
    who.must("share.read", factory=pool.factory_id)
    not_modified(request, pool.revision)
    set_etag(response, pool.revision)
    return PoolView.of(pool)


@router.put("/pools/{pool_id}", summary="Decide on a pool beside its amounts", tags=["pools"])
async def change_pool(
    pool_id: ShareId, words: PoolChange, tx: Tx, who: Who, request: Request, response: Response
) -> PoolView:
    """Its reserve for other modes, its limits for one grant, the policy grants stand under; needs If-Match."""
    before = await store.find_pool(tx, pool_id)
    who.must(_write(before.kind), factory=before.factory_id)
    before = (await store.lock_pools(tx, [pool_id]))[pool_id]
    check_if_match(request, before.revision)
    after = await pools.change_pool(
        tx,
        before,
        title=words.title,
        reserved=words.reserved,
        use_or_lose=words.use_or_lose,
        most_per_grant=words.most_per_grant,
        longest_days=words.longest_days,
        by=who.subject,
        reason=words.reason,
    )
    set_etag(response, after.revision)
    return PoolView.of(after)


@router.post(
    "/pools/{pool_id}/funding",
    summary="Put something into a pool",
    tags=["pools"],
    responses={202: {"model": ApprovalView, "description": "it waits for a second person"}},
)
async def fund_pool(
    pool_id: ShareId, words: Funding, tx: Tx, who: Who, response: Response, settings: Settings
) -> PoolView | ApprovalView:
    """From its funder, or out of another pool; send an Idempotency-Key, so that a repetition adds nothing.

    A large one waits for a second person, as the host has set; then the answer is 202, and nothing has moved.
    """
    pool = await store.find_pool(tx, pool_id)
    who.must(_write(pool.kind), factory=pool.factory_id)
    giver = None if words.source is None else await store.find_pool(tx, words.source)
    if giver is not None:
        who.must(_write(giver.kind), factory=giver.factory_id)
    known = await people.find_resource(tx, pool.resource)
    if approvals.funding_needs_approval(known, pool.funded, words.amount, settings.second_person_funding_above):
        pools.check_funding(pool, giver, words.amount)
        asked = await approvals.ask(
            tx,
            what="fund_pool",
            factory_id=pool.factory_id,
            permission=_write(pool.kind),
            words=words.model_dump(mode="json"),
            amount=words.amount,
            by=who.subject,
            pool_id=pool_id,
        )
        response.status_code = 202
        return ApprovalView.of(asked)
    funded = await pools.fund_pool(tx, pool_id, words.amount, source=words.source, by=who.subject, reason=words.reason)
    return PoolView.of(funded)


@router.post("/pools/{pool_id}/withdrawals", summary="Take back what a pool has not passed on", tags=["pools"])
async def withdraw_from_pool(pool_id: ShareId, words: Withdrawal, tx: Tx, who: Who) -> PoolView:
    """To the pool above it, or to its funder; send an Idempotency-Key."""
    pool = await store.find_pool(tx, pool_id)
    who.must(_write(pool.kind), factory=pool.factory_id)
    return PoolView.of(await pools.withdraw_from_pool(tx, pool_id, words.amount, by=who.subject, reason=words.reason))


@router.get("/pools/{pool_id}/statement", summary="Everything that went in and out of a pool", tags=["pools"])
async def get_pool_statement(pool_id: ShareId, tx: Tx, who: Who, page: Paging) -> Page[MovementView]:
    """Oldest first."""
    pool = await store.find_pool(tx, pool_id)
    who.must("pool.read", factory=pool.factory_id)
    found = await store.list_movements(tx, pool.account, after=number_in(page.after), limit=page.limit + 1)
    return make_page([MovementView.of(one) for one in found], page.limit, lambda view: str(view.transfer_id))


# Caps


@router.get("/cap-rules", summary="Published ceilings of access modes", tags=["caps"])
async def list_cap_rules(
    who: Who,
    page: Paging,
    policy_version: Annotated[str | None, Query(max_length=20, description="only of this version")] = None,
) -> Page[CapRule]:
    """With their sources. They bind where somebody has put a cap on a resource."""
    who.must("share.read")
    after = page.after or ""
    found = [
        rule
        for rule in cap_rules()
        if (policy_version is None or rule.policy_version == policy_version) and _place(rule) > after
    ]
    return make_page(found, page.limit, _place)


def _place(rule: CapRule) -> str:
    return f"{rule.policy_version} {rule.mode_group}"


@router.get("/caps", summary="Ceilings, and what is left below them", tags=["caps"])
async def list_caps(
    tx: Tx,
    who: Who,
    page: Paging,
    resource: OfResource = None,
    policy_version: Annotated[str | None, Query(max_length=20, description="only of this version")] = None,
    mode: Annotated[str | None, Query(max_length=64, description="only over this mode or group")] = None,
) -> Page[CapView]:
    """In the order of their ids; everybody who has a role may see them."""
    scope = who.scope("share.read")
    found = await store.list_caps(
        tx,
        everything=scope.everything,
        factories=scope.factories,
        resource=resource,
        policy_version=policy_version,
        mode=mode,
        after=page.after,
        limit=page.limit + 1,
    )
    return make_page([CapView.of(one) for one in found], page.limit, lambda view: view.cap_id)


@router.post("/caps", status_code=201, summary="Put a ceiling on a group of modes", tags=["caps"])
async def create_cap(words: CapCreation, tx: Tx, who: Who, response: Response, settings: Settings) -> CapView:
    """What is left out is taken from the published rule; grants made before count under it."""
    who.must("cap.write", factory=settings.factory)
    cap = Cap(
        id=words.cap_id,
        factory_id=settings.factory,
        policy_version=words.policy_version,
        mode_group=words.mode_group,
        modes=(),
        pool_kind=words.pool_kind,
        resource=words.resource,
        starts_at=words.starts_at,
        ends_at=words.ends_at,
        pct=0,
        base=words.base,
        base_amount=words.base_amount or 0,
        ceiling=0,
        used=0,
        yields=False,
        source="",
        account=0,
        revision=0,
        created_by=who.subject,
        created_at=clock.now(),
    )
    made = await pools.create_cap(
        tx, cap, pct=words.pct, modes=words.modes, source=words.source, yields=words.yields, reason=words.reason
    )
    set_etag(response, made.revision)
    response.headers["location"] = f"/v1/caps/{made.id}"
    return CapView.of(made)


@router.get("/caps/{cap_id}", summary="One ceiling", tags=["caps"])
async def get_cap(cap_id: ShareId, tx: Tx, who: Who, request: Request, response: Response) -> CapView:
    """With its ETag, which a change must name; every grant under it makes a new one."""
    cap = await store.find_cap(tx, cap_id)
    who.must("share.read", factory=cap.factory_id)
    not_modified(request, cap.revision)
    set_etag(response, cap.revision)
    return CapView.of(cap)


@router.put("/caps/{cap_id}", summary="Give a group another ceiling", tags=["caps"])
async def change_cap(
    cap_id: ShareId, words: CapChange, tx: Tx, who: Who, request: Request, response: Response
) -> CapView:
    """Needs If-Match. Lowered below what was granted, it takes nothing away and leaves no headroom."""
    before = await store.find_cap(tx, cap_id)
    who.must("cap.write", factory=before.factory_id)
    before = await store.find_cap(tx, cap_id, lock=True)
    check_if_match(request, before.revision)
    after = await pools.change_cap(
        tx,
        before,
        pct=words.pct,
        base=words.base,
        base_amount=words.base_amount,
        yields=words.yields,
        source=words.source,
        by=who.subject,
        reason=words.reason,
    )
    set_etag(response, after.revision)
    return CapView.of(after)


@router.get("/headroom", summary="What may be granted now, at most", tags=["caps"])
async def get_headroom(
    tx: Tx,
    who: Who,
    resource: Annotated[ResourceId, Query(description="of what")],
    kind: Annotated[PoolKind, Query(description="out of which share")] = "union",
    mode: Annotated[str | None, Query(max_length=64, description="under this access mode")] = None,
    policy_version: Annotated[str | None, Query(max_length=20, description="of this policy version")] = None,
    earmark: Annotated[str | None, Query(max_length=80, description="for this purpose")] = None,
    at: Annotated[Moment | None, Query(description="starting then; now, if left out")] = None,
) -> HeadroomView:
    """The smallest of what the pool and every cap over the mode leave, as it is at this moment."""
    who.must("share.read")
    starts_at: datetime = at or clock.now()
    asked = Asked(resource, kind, 0, starts_at, starts_at, mode, policy_version, earmark)
    pool = domain.choose_pool(await store.pools_of(tx, resource, kind), asked)
    caps = domain.caps_over(await store.caps_of(tx, resource, kind), asked)
    return HeadroomView(
        resource=resource,
        kind=kind,
        headroom=domain.headroom(pool, caps),
        pool=None if pool is None else PoolView.of(pool),
        caps=[CapView.of(cap) for cap in caps],
    )


# Awards that wait, and what stands between factories


@router.get("/pending-awards", summary="Awards that wait for room, or have waited", tags=["awards"])
async def list_pending_awards(
    tx: Tx,
    who: Who,
    page: Paging,
    state: Annotated[Literal["waiting", "carried_out", "withdrawn"] | None, Query(description="only these")] = None,
) -> Page[PendingAwardView]:
    """In the order in which they were heard of, which is the order in which they are tried."""
    scope = who.scope("award.read")
    found = await decisions.list_pending(
        tx,
        everything=scope.everything,
        factories=scope.factories,
        state=state,
        after=number_in(page.after),
        limit=page.limit + 1,
    )
    shown = make_page(found, page.limit, lambda one: str(one.number))
    return Page(items=[PendingAwardView.of(one) for one in shown.items], next=shown.next)


@router.post("/pending-awards/{award_id}/retry", summary="Try an award that waits again", tags=["awards"])
async def retry_award(award_id: AwardId, tx: Tx, who: Who) -> PendingAwardView:
    """At once, instead of when its turn comes; the answer says what came of it."""
    await _may_settle(tx, who, award_id)
    return PendingAwardView.of(await awards.retry_award(tx, award_id))


@router.post("/pending-awards/{award_id}/withdrawal", summary="Give up an award that waits", tags=["awards"])
async def withdraw_award(award_id: AwardId, words: Because, tx: Tx, who: Who) -> PendingAwardView:
    """With a reason; it is kept, and never carried out."""
    await _may_settle(tx, who, award_id)
    return PendingAwardView.of(await awards.withdraw_award(tx, award_id, by=who.subject, reason=words.reason))


async def _may_settle(tx: Tx, who: Who, award_id: AwardId) -> None:
    known = await decisions.find_pending(tx, award_id)
    who.must("award.settle", factory=None if known is None else known.factory_id)


@router.get("/clearing", summary="What stands between this factory and others", tags=["clearing"])
async def list_clearing(tx: Tx, who: Who, page: Paging, settings: Settings) -> Page[ClearingView]:
    """One line for each resource; unlike resources are never added up."""
    who.must("clearing.read", factory=settings.factory)
    found = await store.list_clearing(tx, after=two_words_in(page.after), limit=page.limit + 1)
    views = [ClearingView(account=one.owner, resource=one.resource, balance=one.balance) for one in found]
    return make_page(views, page.limit, lambda view: f"{view.account} {view.resource}")
