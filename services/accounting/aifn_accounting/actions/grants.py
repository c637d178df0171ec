"""Grants: an allocation is opened, and what it holds comes out of its pool."""

from dataclasses import asdict, dataclass
from datetime import datetime

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Invalid, Refusal
from aifn_common.outbox import announce
from aifn_events.access import AllocationOpened
from aifn_events.vocabulary import FactoryId, ProjectId, ResourceId, Subject

from aifn_accounting.actions import pools
from aifn_accounting.actions.budget import post
from aifn_accounting.actions.trail import record
from aifn_accounting.domain.ledger import (
    LARGEST_AMOUNT,
    POOL_ROLES,
    AbsurdAmount,
    Allocation,
    Book,
    Pool,
    ProjectClosed,
)
from aifn_accounting.domain.pools import Asked, WrongPool
from aifn_accounting.policy_data import use_or_lose_policies
from aifn_accounting.store import ledger as store
from aifn_accounting.store import order
from aifn_accounting.store import people as people_store
from aifn_accounting.store import pools as pool_store


class WrongUnit(Invalid):
    """An amount was given in another unit than its resource has."""

    code = "wrong_unit"

    def __init__(self, resource: ResourceId, *, unit: str, said: str) -> None:
        super().__init__(f"{resource} is counted in {unit}, not in {said}")
        self.resource = resource
        self.unit = unit


class UnknownResource(Invalid):
    """No machine that is known here has this resource."""

    code = "unknown_resource"


class ForeignResource(Refusal):
    """The machine that has this resource is not one of the project's factory."""

    code = "foreign_resource"
    status = 403

    def __init__(self, resource: ResourceId, factory_id: FactoryId) -> None:
        super().__init__(f"{resource} is not of a machine of {factory_id}")
        self.resource = resource
        self.factory_id = factory_id


@dataclass(frozen=True)
class Terms:
    """Under what an allocation is given: mode and policy version, its pool if one is named, purpose and policies."""

    mode: str | None = None
    policy_version: str | None = None
    pool_id: str | None = None
    earmark: str | None = None
    use_or_lose: str | None = None
    inference_cap_pct: int | None = None


async def open_allocation(
    tx: Transaction,
    project_id: ProjectId,
    resource: ResourceId,
    *,
    amount: int,
    pool: Pool,
    starts_at: datetime,
    ends_at: datetime,
    award_id: str | None,
    reason: str,
    by: str,
    terms: Terms | None = None,
) -> Allocation:
    """Grant a project an amount of one resource for some time, out of its pool.

    Raises: AbsurdAmount, Invalid, UnknownPolicy, WrongPool, and what `pools.draw` raises.
    """
    if starts_at >= ends_at:
        raise Invalid(f"it ends at {ends_at.isoformat()}, which is not after its start")
    if amount > LARGEST_AMOUNT:
        raise AbsurdAmount(amount, limit=LARGEST_AMOUNT, what="a grant")
    under = terms or Terms()
    if under.use_or_lose is not None and under.use_or_lose not in use_or_lose_policies():
        raise pools.UnknownPolicy(f"there is no policy {under.use_or_lose}")
    await order.beside_usage(tx)
    await order.open_in_project(tx, project_id)
    named = None if under.pool_id is None else await pool_store.find_pool(tx, under.pool_id)
    if named is not None and named.kind not in ("fund", pool):
        raise WrongPool(f"pool {named.id} is a {named.kind} pool, and this is said to be of the {pool} share")
    asked = Asked(
        resource,
        pool if named is None else named.kind,
        amount,
        starts_at,
        ends_at,
        mode=under.mode,
        policy_version=under.policy_version,
        earmark=under.earmark,
    )
    drawn = await pools.draw(tx, asked, share=pool, pool_id=under.pool_id)
    now = clock.now()
    allocation = await store.add_allocation(
        tx,
        clock.short_id("alloc"),
        project_id,
        resource,
        pool=pool,
        starts_at=starts_at,
        ends_at=ends_at,
        award_id=award_id,
        reason=reason,
        by=by,
        at=now,
    )
    await store.put_terms(
        tx,
        allocation.number,
        pool_id=None if drawn.pool is None else drawn.pool.id,
        mode=under.mode,
        policy_version=under.policy_version,
        earmark=under.earmark,
        use_or_lose=under.use_or_lose or (None if drawn.pool is None else drawn.pool.use_or_lose),
        inference_cap_pct=under.inference_cap_pct,
        amount=amount,
    )
    allocation = allocation._replace(accounts={**allocation.accounts, POOL_ROLES[pool]: drawn.account})
    book = Book({allocation.number: allocation.balance})
    book.grant(allocation.number, amount, pool)
    await post(tx, [allocation], book, now)
    machine_id, partition_id, _ = resource.split("/")
    await announce(
        tx,
        AllocationOpened(
            allocation_id=allocation.id,
            project_id=project_id,
            award_id=award_id,
            machine_id=machine_id,
            partition_id=partition_id,
            resource=resource,
            amount=amount,
            pool=pool,
            starts_at=starts_at,
            ends_at=ends_at,
        ),
    )
    return allocation


async def grant(
    tx: Transaction,
    project: store.Project,
    resource: ResourceId,
    *,
    amount: int,
    pool: Pool,
    starts_at: datetime,
    ends_at: datetime,
    unit: str,
    reason: str,
    by: Subject,
    terms: Terms,
) -> Allocation:
    """Grant by a person's decision, of a resource of the project's own factory: nobody gives away what others have.

    Raises: ProjectClosed, UnknownResource, ForeignResource, WrongUnit, and what `open_allocation` raises.
    """
    await check_grantable(tx, project, resource, unit)
    allocation = await open_allocation(
        tx,
        project.id,
        resource,
        amount=amount,
        pool=pool,
        starts_at=starts_at,
        ends_at=ends_at,
        award_id=None,
        reason=reason,
        by=by,
        terms=terms,
    )
    after = {"resource": resource, "amount": amount, "pool": pool, "starts_at": starts_at, "ends_at": ends_at}
    await record(
        tx, actor=by, action="grant", thing="allocation", thing_id=allocation.id, project_id=project.id,
        factory_id=project.factory_id, reason=reason, after=after | asdict(terms),
    )  # fmt: skip
    return allocation


async def check_grantable(
    tx: Transaction, project: store.Project, resource: ResourceId, unit: str
) -> people_store.Known:
    """Whether a project may be given a resource at all; returns how that is counted.

    Raises: ProjectClosed, UnknownResource, ForeignResource, WrongUnit.
    """
    if project.closed:
        raise ProjectClosed(project.id)
    known = await people_store.find_resource(tx, resource)
    if known is None:
        raise UnknownResource(f"no machine here has {resource}, and it is not registered")
    if project.factory_id not in known.factories:
        raise ForeignResource(resource, project.factory_id)
    if unit != known.unit:
        raise WrongUnit(resource, unit=known.unit, said=unit)
    return known
