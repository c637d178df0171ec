"""What the Data Lab does: describe datasets, answer access requests. One transaction each."""

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Stale
from aifn_common.outbox import announce
from aifn_events.access import AllocationOpened
from aifn_events.datalab import DatasetAccessDecided, DatasetDescribed
from aifn_events.registry import MachineDescribed
from aifn_events.shares import AllocationChanged
from aifn_events.vocabulary import DatasetId, ProjectId, Subject, short_id

from aifn_datalab import domain, store
from aifn_datalab.domain import AccessRequest, Dataset, LegalBasis


async def describe_dataset(tx: Transaction, dataset: Dataset) -> Dataset:
    """Put a new dataset on offer. Raises DatasetExists, LocationRefused, DescriptionIncomplete."""
    domain.check_description(dataset)
    await store.add_dataset(tx, dataset)
    await announce(tx, _described(dataset))
    return dataset


async def revise_dataset(tx: Transaction, before: Dataset, words: Dataset) -> Dataset:
    """Replace the description of a dataset whose row is locked. Raises as `domain.revise`."""
    after = domain.revise(before, words)
    await store.replace_dataset(tx, after)
    await announce(tx, _described(after))
    return after


async def retire_dataset(tx: Transaction, dataset_id: DatasetId) -> Dataset:
    """Take a dataset off offer and refuse what still waits for it. Raises DatasetUnknown, DatasetRetired."""
    await store.hold_machines(tx)
    before = await store.get_dataset(tx, dataset_id, lock=True)
    after = domain.retire(before, clock.now())
    await store.replace_dataset(tx, after)
    await announce(tx, _described(after))
    for request_id in await store.pending_for_dataset(tx, dataset_id):
        await _decide_again(tx, request_id, after)
    return after


async def request_access(
    tx: Transaction,
    *,
    dataset_id: DatasetId,
    project_id: ProjectId,
    purpose: str,
    legal_basis: LegalBasis | None,
    requested_by: Subject,
) -> AccessRequest:
    """Ask to use a dataset; the rules answer at once where they can.

    Raises: ProjectUnknown, DatasetUnknown, RequestOpen, AlreadyGranted.
    """
    await store.hold_machines(tx)
    await store.hold_project(tx, project_id)
    project = await store.get_project(tx, project_id)
    dataset = await store.get_dataset(tx, dataset_id, steady=True)
    now = clock.now()
    asked = AccessRequest(
        id=short_id("req"),
        dataset_id=dataset_id,
        project_id=project_id,
        factory_id=dataset.factory_id,
        purpose=purpose,
        legal_basis=legal_basis,
        requested_by=requested_by,
        requested_at=now,
    )
    request = domain.decide(dataset, project, asked, await store.places_of(tx, project_id, now), now)
    domain.check_not_asked_twice(await store.requests_of(tx, project_id, dataset_id), request, now)
    await store.add_request(tx, request)
    await _announce_decision(tx, request)
    return request


async def answer_request(
    tx: Transaction, request_id: str, *, granted: bool, reason: str, steward: Subject
) -> AccessRequest:
    """Decide as a data steward. Raises RequestUnknown, AlreadyDecided, GrantForbidden."""
    await store.hold_machines(tx)
    known = await store.get_request(tx, request_id)
    await store.hold_project(tx, known.project_id)
    dataset = await store.get_dataset(tx, known.dataset_id, steady=True)
    request = await store.get_request(tx, request_id, lock=True)
    project = await store.get_project(tx, request.project_id)
    now = clock.now()
    places = await store.places_of(tx, request.project_id, now)
    decided = domain.answer(dataset, project, request, places, granted=granted, reason=reason, steward=steward, now=now)
    await store.keep_decision(tx, decided)
    await _announce_decision(tx, decided)
    return decided


async def remember_allocation(tx: Transaction, event: AllocationOpened | AllocationChanged) -> None:
    """Keep where a project computes, and look again at what it asked for before that was known."""
    await store.hold_machines(tx)
    await store.hold_project(tx, event.project_id)
    if isinstance(event, AllocationChanged):
        machine_id, revision = event.resource.partition("/")[0], event.revision
    else:
        machine_id, revision = event.machine_id, 0
    await store.keep_allocation(tx, event.allocation_id, event.project_id, machine_id, event.ends_at, revision)
    await _look_again(tx, event.project_id)


async def remember_machine(tx: Transaction, event: MachineDescribed) -> None:
    """Keep in which country a machine stands, and look again at what waited for it. Raises Stale."""
    await store.hold_machines(tx, to_change=True)
    known = await store.machine_revision(tx, event.machine_id)
    if known is not None and event.revision < known:
        raise Stale(f"machine {event.machine_id} is known in revision {known}, this is {event.revision}")
    await store.keep_machine(tx, event.machine_id, event.revision, event.country)
    for project_id in await store.projects_on(tx, event.machine_id):
        await store.hold_project(tx, project_id)
        await _look_again(tx, project_id)


async def _look_again(tx: Transaction, project_id: ProjectId) -> None:
    for request_id, dataset_id in await store.waiting_for_allocation(tx, project_id):
        dataset = await store.get_dataset(tx, dataset_id, steady=True)
        await _decide_again(tx, request_id, dataset)


async def _decide_again(tx: Transaction, request_id: str, dataset: Dataset) -> None:
    before = await store.get_request(tx, request_id, lock=True)
    if before.state != "pending":
        return
    now = clock.now()
    places = await store.places_of(tx, before.project_id, now)
    after = domain.decide(dataset, await store.get_project(tx, before.project_id), before, places, now)
    await store.keep_decision(tx, after)
    await _announce_decision(tx, after)


async def _announce_decision(tx: Transaction, request: AccessRequest) -> None:
    if request.state == "pending" or request.decided_by is None or request.decided_at is None:
        return
    await announce(
        tx,
        DatasetAccessDecided(
            request_id=request.id,
            dataset_id=request.dataset_id,
            project_id=request.project_id,
            granted=request.state == "granted",
            purpose=request.purpose,
            reasons=request.reasons(),
            decided_by=request.decided_by,
            decided_at=request.decided_at,
            expires_at=request.expires_at,
        ),
    )


def _described(dataset: Dataset) -> DatasetDescribed:
    return DatasetDescribed(
        dataset_id=dataset.id,
        revision=dataset.revision,
        factory_id=dataset.factory_id,
        title=dataset.title,
        licence=dataset.licence,
        sensitivity=dataset.sensitivity,
        grade=dataset.grade,
        residency=list(dataset.residency),
        location=dataset.location,
        retired=dataset.retired,
    )
