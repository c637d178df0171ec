"""Builders, so that a test says only what it is about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from aifn_common.database import Database, transaction
from aifn_common.membership import remember_project
from aifn_datalab import actions
from aifn_datalab.domain import AccessRequest, Dataset, Place, Project
from aifn_events.access import AllocationOpened, ProjectDescribed
from aifn_events.registry import MachineDescribed

SOURCE = "urn:aifn:lumi-aif:test"
NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
NEXT_YEAR = datetime(2127, 1, 21, 9, tzinfo=UTC)
YEAR_AFTER = NEXT_YEAR + timedelta(days=365)


def dataset(dataset_id: str = "speech", **values: Any) -> Dataset:
    """An open dataset without limits; `values` replace some of its words."""
    words = Dataset(
        id=dataset_id,
        revision=0,
        factory_id="lumi-aif",
        title="Finnish speech corpus",
        description="read and free speech",
        licence="CC-BY-4.0",
        sensitivity="open",
        grade="open",
        residency=(),
        location="s3://lumi-o/finnish-speech/",
        size_bytes=None,
        legal_basis=None,
        contact="datalab@example.eu",
        retired=False,
        changed_at=NOW,
    )
    return replace(words, **values)


def personal(dataset_id: str = "voices", **values: Any) -> Dataset:
    """Personal data that may lie in Finland."""
    words = {"sensitivity": "personal", "grade": "data_space", "legal_basis": "consent", "residency": ("FI",)}
    return dataset(dataset_id, **(words | values))


def project(**values: Any) -> Project:
    """An open project hosted by the same factory."""
    return replace(Project(id="p1", factory_id="lumi-aif", closed=False), **values)


def place(country: str | None = "FI", ends_at: datetime = NEXT_YEAR, name: str = "lumi") -> Place:
    """One allocation."""
    return Place(allocation_id=f"alloc-{name}", machine_id=name, country=country, ends_at=ends_at)


def wish(**values: Any) -> AccessRequest:
    """A request with a purpose and a legal basis."""
    asked = AccessRequest(
        id="req-1",
        dataset_id="speech",
        project_id="p1",
        factory_id="lumi-aif",
        purpose="train a speech model",
        legal_basis="public_task",
        requested_by="pi",
        requested_at=NOW,
    )
    return replace(asked, **values)


def machine(machine_id: str = "lumi", country: str | None = "FI", revision: int = 0) -> MachineDescribed:
    """Word of a machine's country."""
    return MachineDescribed.example(machine_id=machine_id, country=country, revision=revision).model_copy(
        update={"source": SOURCE}
    )


def allocation(
    project_id: str = "p1", machine_id: str = "lumi", ends_at: datetime = NEXT_YEAR, name: str = "a1"
) -> AllocationOpened:
    """Word of an allocation."""
    values = {"project_id": project_id, "machine_id": machine_id, "ends_at": ends_at, "allocation_id": f"alloc-{name}"}
    return AllocationOpened.example(**values).model_copy(update={"source": SOURCE})


def described(project_id: str = "p1", subject: str = "pi", **values: Any) -> ProjectDescribed:
    """Word of a project and its principal investigator."""
    members = [{"subject": subject, "role": "pi"}]
    return ProjectDescribed.example(project_id=project_id, members=members, **values).model_copy(
        update={"source": SOURCE}
    )


async def know_project(db: Database, project_id: str = "p1", subject: str = "pi", **values: Any) -> None:
    """Have a project with one principal investigator."""
    async with transaction(db) as tx:
        await remember_project(tx, described(project_id, subject, **values))


async def know_places(db: Database, *events: AllocationOpened | MachineDescribed) -> None:
    """Hear of allocations and machines, each in its own transaction."""
    for event in events:
        async with transaction(db) as tx:
            if isinstance(event, AllocationOpened):
                await actions.remember_allocation(tx, event)
            else:
                await actions.remember_machine(tx, event)


async def offer(db: Database, *datasets: Dataset) -> None:
    """Describe datasets."""
    async with transaction(db) as tx:
        for one in datasets:
            await actions.describe_dataset(tx, one)


async def ask(db: Database, dataset_id: str, **values: Any) -> AccessRequest:
    """Ask for a dataset as project p1; `values` replace some of the words."""
    words: dict[str, Any] = {"project_id": "p1", "purpose": "train", "legal_basis": None, "requested_by": "pi"}
    async with transaction(db) as tx:
        return await actions.request_access(tx, dataset_id=dataset_id, **(words | values))


async def answer(db: Database, request_id: str, *, granted: bool = True, steward: str = "dora") -> AccessRequest:
    """Decide as a steward."""
    async with transaction(db) as tx:
        return await actions.answer_request(tx, request_id, granted=granted, reason="agreement signed", steward=steward)
