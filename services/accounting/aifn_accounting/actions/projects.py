"""Projects, who belongs to them, and what they are granted."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime

from aifn_common import clock, membership
from aifn_common.database import Transaction
from aifn_common.errors import Invalid, Refusal, Stale
from aifn_common.outbox import announce
from aifn_events.access import AllocationOpened, AwardGranted, ProjectDescribed, ProjectMember
from aifn_events.registry import MachineDescribed
from aifn_events.vocabulary import FactoryId, ProjectId, ResourceId, Subject, short_id

from aifn_accounting.actions.budget import post
from aifn_accounting.domain.ledger import Allocation, Book, Pool
from aifn_accounting.store import ledger as store
from aifn_accounting.store import usage as usage_store

UNIT = "slice-second"


class DuplicateProject(Refusal):
    """A project of this id exists."""

    code = "duplicate_project"


class DuplicateAward(Refusal):
    """This award was carried out before, and another event says so again."""

    code = "duplicate_award"


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


class NobodyLeads(Invalid):
    """A project needs somebody who answers for it."""

    code = "no_principal_investigator"


async def remember_machine(tx: Transaction, event: MachineDescribed) -> None:
    """Keep how the resources of a machine are counted, to show hours and to know absurd amounts, and whose they are.

    Raises: Stale, if a later word on the machine is known.
    """
    known = await usage_store.machine_revision(tx, event.machine_id)
    if known is not None and event.revision < known:
        raise Stale(f"machine {event.machine_id} is known in revision {known}, this is {event.revision}")
    for part in event.partitions:
        await usage_store.put_resource(
            tx,
            part.resource,
            event.machine_id,
            part.partition_id,
            unit=UNIT,
            units_per_node=part.units_per_node,
            devices_per_node=part.devices_per_node,
            gpus_per_node=part.gpus_per_node,
            cores_per_node=part.cores_per_node,
            nodes=part.nodes,
            factory_ids=event.factory_ids,
            revision=event.revision,
        )


async def open_project_from_award(tx: Transaction, event: AwardGranted) -> None:
    """Open what an award gives: the project, if it is new, its principal investigator, an allocation per resource.

    A further award to the same application adds to its project. A project that was made for anything else is not
    touched: its members would spend, and its factory would see, what was given to others.

    Raises: DuplicateAward, DuplicateProject, AbsurdAmount.
    """
    if await store.award_known(tx, event.award_id):
        raise DuplicateAward(f"award {event.award_id} was carried out before")
    now = clock.now()
    is_new = await store.add_project(
        tx, event.project_id, event.project_title, event.factory_id, by=event.award_id, at=now
    )
    project = await store.get_project(tx, event.project_id, lock=True)
    if not is_new and not await store.applied_for(tx, project.id, event.application_id):
        raise DuplicateProject(f"project {project.id} exists, and not for application {event.application_id}")
    members = {one.subject: one.role for one in await store.list_members(tx, project.id)}
    if is_new or members.get(event.principal_investigator) != "pi":
        await _describe(tx, project.id, members | {event.principal_investigator: "pi"}, is_new=is_new)
    await store.add_award(
        tx,
        store.Award(
            event.award_id,
            event.project_id,
            event.application_id,
            event.mode,
            event.policy_version,
            event.deciding_authority,
            event.applicant_kind,
            event.country,
            event.starts_at,
            event.ends_at,
        ),
    )
    amounts: dict[ResourceId, int] = defaultdict(int)
    for line in event.lines:
        amounts[line.resource] += line.amount
    for resource, amount in sorted(amounts.items()):
        await open_allocation(
            tx,
            event.project_id,
            resource,
            amount=amount,
            pool=event.pool,
            starts_at=event.starts_at,
            ends_at=event.ends_at,
            award_id=event.award_id,
            reason=f"award {event.award_id}, {event.mode}, policy {event.policy_version}",
            by=event.award_id,
        )


async def create_project(
    tx: Transaction,
    *,
    project_id: ProjectId | None,
    title: str,
    factory_id: FactoryId,
    principal_investigator: Subject,
    by: Subject,
) -> store.Project:
    """Make a project without an award, e.g. for the host's own share. Raises DuplicateProject."""
    name = project_id or short_id("prj")
    if not await store.add_project(tx, name, title, factory_id, by=by, at=clock.now()):
        raise DuplicateProject(f"project {name} exists")
    await _describe(tx, name, {principal_investigator: "pi"}, is_new=True)
    return await store.get_project(tx, name)


async def change_members(tx: Transaction, project: store.Project, members: Mapping[Subject, str]) -> store.Project:
    """Say who belongs to a project; the row must be locked. Raises NobodyLeads."""
    if "pi" not in members.values():
        raise NobodyLeads(f"project {project.id} needs at least one pi")
    await _describe(tx, project.id, members, is_new=False)
    return await store.get_project(tx, project.id)


async def _describe(tx: Transaction, project_id: ProjectId, members: Mapping[Subject, str], *, is_new: bool) -> None:
    if not is_new:
        await store.raise_revision(tx, project_id)
    project = await store.get_project(tx, project_id)
    event = ProjectDescribed(
        project_id=project.id,
        revision=project.revision,
        title=project.title,
        factory_id=project.factory_id,
        members=[
            ProjectMember.model_validate({"subject": subject, "role": role})
            for subject, role in sorted(members.items())
        ],
        closed=project.closed,
    )
    await membership.remember_project(tx, event)
    await announce(tx, event)


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
) -> Allocation:
    """Grant a project an amount of one resource for some time. Raises AbsurdAmount, Invalid."""
    if starts_at >= ends_at:
        raise Invalid(f"it ends at {ends_at.isoformat()}, which is not after its start")
    now = clock.now()
    allocation = await store.add_allocation(
        tx,
        short_id("alloc"),
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
    reason: str,
    by: Subject,
) -> Allocation:
    """Grant by a person's decision, of a machine of the project's own factory: nobody gives away what others have.

    Raises: UnknownResource, ForeignResource, AbsurdAmount, Invalid.
    """
    factories = await usage_store.factories_of(tx, resource)
    if factories is None:
        raise UnknownResource(f"no machine here has {resource}")
    if project.factory_id not in factories:
        raise ForeignResource(resource, project.factory_id)
    return await open_allocation(
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
    )
