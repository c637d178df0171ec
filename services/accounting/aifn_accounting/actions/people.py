"""What is known of the people of a project, and resources that no machine brings."""

from datetime import date

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Refusal
from aifn_events.vocabulary import FactoryId, ResourceId, Subject

from aifn_accounting.actions.trail import record
from aifn_accounting.store import ledger
from aifn_accounting.store import people as store


class DuplicateResource(Refusal):
    """This resource is known, from a machine or because it was registered."""

    code = "duplicate_resource"


async def describe_person(
    tx: Transaction,
    project: ledger.Project,
    subject: Subject,
    *,
    contract_ends_on: date | None,
    local_user: str | None,
    by: Subject,
    reason: str,
) -> store.Person:
    """Keep until when a member's contract runs, and the name at the site. Raises NotFound for one who is no member."""
    before = await store.get_person(tx, project.id, subject)
    await store.put_person(tx, project.id, subject, contract_ends_on=contract_ends_on, local_user=local_user)
    after = await store.get_person(tx, project.id, subject)
    await record(
        tx, actor=by, action="describe_person", thing="person", thing_id=subject, project_id=project.id,
        factory_id=project.factory_id, reason=reason, before=before, after=after,
    )  # fmt: skip
    return after


async def register_resource(
    tx: Transaction, resource: ResourceId, *, unit: str, title: str, factory_id: FactoryId, by: Subject, reason: str
) -> None:
    """Make something countable that no machine brings: credits, hours of experts, bytes. Raises DuplicateResource."""
    if await store.find_resource(tx, resource) is not None or not await store.add_resource(
        tx, resource, unit=unit, title=title, factory_id=factory_id, by=by, at=clock.now()
    ):
        raise DuplicateResource(f"{resource} is known already")
    await record(
        tx, actor=by, action="register_resource", thing="resource", thing_id=resource, factory_id=factory_id,
        reason=reason, after={"unit": unit, "title": title},
    )  # fmt: skip
