"""Projects, who belongs to them, and what they are granted."""

from collections import defaultdict
from collections.abc import Mapping

from aifn_common import clock, membership
from aifn_common.database import Transaction
from aifn_common.errors import Invalid, Refusal, Stale
from aifn_common.outbox import announce
from aifn_events.access import AwardGranted, ProjectDescribed, ProjectMember
from aifn_events.registry import MachineDescribed
from aifn_events.vocabulary import FactoryId, ProjectId, ResourceId, Subject

from aifn_accounting.actions.grants import Terms, open_allocation
from aifn_accounting.actions.trail import record
from aifn_accounting.domain.ledger import ProjectClosed
from aifn_accounting.domain.pools import ReservedProjectId, is_award_project
from aifn_accounting.store import ledger as store
from aifn_accounting.store import order
from aifn_accounting.store import usage as usage_store

UNIT = "slice-second"


class DuplicateProject(Refusal):
    """A project of this id exists."""

    code = "duplicate_project"


class DuplicateAward(Refusal):
    """This award was carried out before, and another event says so again."""

    code = "duplicate_award"


class HoldsOpen(Refusal):
    """Jobs of a project still hold budget."""

    code = "holds_open"

    def __init__(self, project_id: ProjectId, *, held: int) -> None:
        super().__init__(f"jobs of {project_id} hold {held} still: cancel them or wait for their end")
        self.project_id = project_id
        self.held = held


class NobodyLeads(Invalid):
    """A project needs somebody who answers for it."""

    code = "no_principal_investigator"


async def remember_machine(tx: Transaction, event: MachineDescribed) -> None:
    """Keep how the resources of a machine are counted, to show hours and to know absurd amounts, and whose they are.

    Raises: Stale, if a later word on the machine is known.
    """
    await order.beside_usage(tx)
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

    Raises: DuplicateAward, DuplicateProject, ProjectClosed, AbsurdAmount, and what `pools.draw` raises.
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
    if project.closed:
        raise ProjectClosed(project.id)
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
            terms=Terms(
                mode=event.mode, policy_version=event.policy_version, inference_cap_pct=event.inference_cap_pct
            ),
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
    """Make a project without an award, e.g. for the host's own share. Raises DuplicateProject, ReservedProjectId."""
    name = project_id or clock.short_id("prj")
    if is_award_project(name):
        raise ReservedProjectId(name)
    if not await store.add_project(tx, name, title, factory_id, by=by, at=clock.now()):
        raise DuplicateProject(f"project {name} exists")
    members = {principal_investigator: "pi"}
    await _describe(tx, name, members, is_new=True)
    project = await store.get_project(tx, name)
    await _record(
        tx, project, "create_project", by, "made without an award", None, {"title": title, "members": members}
    )
    return project


async def change_members(
    tx: Transaction, project: store.Project, members: Mapping[Subject, str], *, by: Subject, reason: str
) -> store.Project:
    """Say who belongs to a project; the row must be locked. Raises NobodyLeads."""
    if "pi" not in members.values():
        raise NobodyLeads(f"project {project.id} needs at least one pi")
    before = {one.subject: one.role for one in await store.list_members(tx, project.id)}
    await _describe(tx, project.id, members, is_new=False)
    await _record(tx, project, "change_members", by, reason, {"members": before}, {"members": dict(members)})
    return await store.get_project(tx, project.id)


async def close_project(tx: Transaction, project: store.Project, *, by: Subject, reason: str) -> store.Project:
    """End a project: nothing more is held for it or granted to it. The row must be locked. Late usage is charged still.

    Raises: ProjectClosed, HoldsOpen.
    """
    if project.closed:
        raise ProjectClosed(project.id)
    allocations = await store.lock_allocations(tx, projects=[project.id])
    held = sum(one.balance.held for one in allocations)
    if held:
        raise HoldsOpen(project.id, held=held)
    await store.close_project(tx, project.id)
    members = {one.subject: one.role for one in await store.list_members(tx, project.id)}
    await _describe(tx, project.id, members, is_new=False)
    await _record(tx, project, "close_project", by, reason, {"closed": False}, {"closed": True})
    return await store.get_project(tx, project.id)


async def _record(
    tx: Transaction, project: store.Project, action: str, by: str, reason: str, before: object, after: object
) -> None:
    await record(
        tx, actor=by, action=action, thing="project", thing_id=project.id, project_id=project.id,
        factory_id=project.factory_id, reason=reason, before=before, after=after,
    )  # fmt: skip


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
