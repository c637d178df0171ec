"""All SQL of the Data Lab: datasets, access requests, and what was heard of allocations and machines."""

import re
from dataclasses import asdict, dataclass
from datetime import datetime

from aifn_common.database import Row, Transaction
from aifn_events.vocabulary import AllocationId, DatasetId, MachineId, ProjectId

from aifn_datalab.domain import (
    AccessRequest,
    Dataset,
    DatasetExists,
    DatasetUnknown,
    Finding,
    Grade,
    Place,
    Project,
    ProjectUnknown,
    RequestUnknown,
    Sensitivity,
    State,
)

_DATASET_COLUMNS = """id, revision, factory_id, title, description, licence, sensitivity, grade, residency, location,
    size_bytes, legal_basis, contact, retired, changed_at"""
_DATASET = f"SELECT {_DATASET_COLUMNS} FROM dataset WHERE id = $1"
_ADD_DATASET = f"""
INSERT INTO dataset ({_DATASET_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (id) DO NOTHING RETURNING id"""
_REPLACE_DATASET = """
UPDATE dataset SET revision = $2, factory_id = $3, title = $4, description = $5, licence = $6, sensitivity = $7,
    grade = $8, residency = $9, location = $10, size_bytes = $11, legal_basis = $12, contact = $13, retired = $14,
    changed_at = $15
WHERE id = $1"""
_DATASETS = f"""
SELECT {_DATASET_COLUMNS} FROM dataset
WHERE ($1::text IS NULL OR words @@ to_tsquery('simple', $1))
  AND ($2::text IS NULL OR licence = $2)
  AND ($3::text IS NULL OR sensitivity = $3)
  AND ($4::text IS NULL OR grade = $4)
  AND ($5::text IS NULL OR cardinality(residency) = 0 OR $5 = ANY(residency))
  AND ($6 OR NOT retired)
  AND ($7::text IS NULL OR id > $7)
ORDER BY id LIMIT $8"""

_REQUEST_COLUMNS = """id, dataset_id, project_id, factory_id, purpose, legal_basis, requested_by, requested_at, state,
    waits_for, findings, decided_by, steward, steward_reason, decided_at, expires_at"""
_REQUEST = f"SELECT {_REQUEST_COLUMNS} FROM access_request WHERE id = $1"
_ADD_REQUEST = f"""
INSERT INTO access_request ({_REQUEST_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"""
_KEEP_DECISION = """
UPDATE access_request SET state = $2, waits_for = $3, findings = $4, decided_by = $5, steward = $6,
    steward_reason = $7, decided_at = $8, expires_at = $9
WHERE id = $1"""
_REQUESTS_OF = f"SELECT {_REQUEST_COLUMNS} FROM access_request WHERE project_id = $1 AND dataset_id = $2"
_REQUESTS = f"""
SELECT {_REQUEST_COLUMNS} FROM access_request
WHERE ($1 OR project_id = ANY($2::text[]) OR factory_id = ANY($3::text[]))
  AND ($4::text IS NULL OR project_id = $4)
  AND ($5::text IS NULL OR dataset_id = $5)
  AND ($6::text IS NULL OR state = $6)
  AND ($7::text IS NULL OR id > $7)
ORDER BY id LIMIT $8"""
_PENDING_FOR_DATASET = """
SELECT id, dataset_id FROM access_request WHERE dataset_id = $1 AND state = 'pending' ORDER BY id"""
_WAITING_FOR_ALLOCATION = """
SELECT id, dataset_id FROM access_request
WHERE project_id = $1 AND state = 'pending' AND waits_for = 'allocation' ORDER BY dataset_id, id"""

_PROJECT = "SELECT project_id AS id, factory_id, closed FROM member_project WHERE project_id = $1"
_ADD_ALLOCATION = """
INSERT INTO allocation (id, project_id, machine_id, ends_at, revision) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO UPDATE SET ends_at = excluded.ends_at, revision = excluded.revision
WHERE allocation.revision < excluded.revision"""
_PLACES = """
SELECT a.id AS allocation_id, a.machine_id, m.country, a.ends_at
FROM allocation a LEFT JOIN machine m ON m.id = a.machine_id
WHERE a.project_id = $1 AND a.ends_at > $2 ORDER BY a.id"""
_PROJECTS_ON = "SELECT DISTINCT project_id FROM allocation WHERE machine_id = $1 ORDER BY project_id"
_MACHINE_REVISION = "SELECT revision FROM machine WHERE id = $1"
_KEEP_MACHINE = """
INSERT INTO machine (id, revision, country) VALUES ($1, $2, $3)
ON CONFLICT (id) DO UPDATE SET revision = excluded.revision, country = excluded.country"""

_MACHINES_LOCK = 0x6D61_6368  # any number, used for nothing else in this database


@dataclass(frozen=True)
class DatasetFilter:
    """What a reader looks for; None is no wish. `residency` asks for data that may lie in that country."""

    text: str | None = None
    licence: str | None = None
    sensitivity: Sensitivity | None = None
    grade: Grade | None = None
    residency: str | None = None
    retired: bool = False


@dataclass(frozen=True)
class RequestFilter:
    """What a reader looks for; None is no wish."""

    project_id: ProjectId | None = None
    dataset_id: DatasetId | None = None
    state: State | None = None


@dataclass(frozen=True)
class Reach:
    """Whose requests a reader may see."""

    everything: bool
    projects: frozenset[str]
    factories: frozenset[str]


async def add_dataset(tx: Transaction, dataset: Dataset) -> None:
    """Keep a new dataset. Raises DatasetExists, also against another transaction that runs now."""
    if await tx.fetchval(_ADD_DATASET, *_dataset_values(dataset)) is None:
        raise DatasetExists(dataset.id)


async def replace_dataset(tx: Transaction, dataset: Dataset) -> None:
    """Keep the next revision of a dataset whose row is locked."""
    await tx.execute(_REPLACE_DATASET, *_dataset_values(dataset))


async def get_dataset(tx: Transaction, dataset_id: DatasetId, *, lock: bool = False, steady: bool = False) -> Dataset:
    """Read a dataset. `lock` keeps it for a change, `steady` keeps others from changing it. Raises DatasetUnknown."""
    suffix = " FOR UPDATE" if lock else " FOR SHARE" if steady else ""
    row = await tx.fetchrow(_DATASET + suffix, dataset_id)
    if row is None:
        raise DatasetUnknown(dataset_id)
    return _dataset(row)


async def list_datasets(tx: Transaction, wanted: DatasetFilter, *, after: str | None, limit: int) -> list[Dataset]:
    """Datasets by name, those after `after`; the text is the beginnings of words of name, title and description."""
    rows = await tx.fetch(
        _DATASETS,
        None if wanted.text is None else _beginnings(wanted.text),
        wanted.licence,
        wanted.sensitivity,
        wanted.grade,
        wanted.residency,
        wanted.retired,
        after,
        limit,
    )
    return [_dataset(row) for row in rows]


async def add_request(tx: Transaction, request: AccessRequest) -> None:
    """Keep a new access request; the caller holds the project."""
    await tx.execute(_ADD_REQUEST, *_request_values(request))


async def keep_decision(tx: Transaction, request: AccessRequest) -> None:
    """Write what was decided about a request whose row is locked."""
    await tx.execute(
        _KEEP_DECISION,
        request.id,
        request.state,
        request.waits_for,
        [asdict(finding) for finding in request.findings],
        request.decided_by,
        request.steward,
        request.steward_reason,
        request.decided_at,
        request.expires_at,
    )


async def get_request(tx: Transaction, request_id: str, *, lock: bool = False) -> AccessRequest:
    """Read an access request; `lock` holds the row until the end. Raises RequestUnknown."""
    row = await tx.fetchrow(_REQUEST + (" FOR UPDATE" if lock else ""), request_id)
    if row is None:
        raise RequestUnknown(request_id)
    return _request(row)


async def requests_of(tx: Transaction, project_id: ProjectId, dataset_id: DatasetId) -> list[AccessRequest]:
    """All requests of one project for one dataset, decided ones included."""
    return [_request(row) for row in await tx.fetch(_REQUESTS_OF, project_id, dataset_id)]


async def list_requests(
    tx: Transaction, reach: Reach, wanted: RequestFilter, *, after: str | None, limit: int
) -> list[AccessRequest]:
    """Access requests within reach, oldest first."""
    rows = await tx.fetch(
        _REQUESTS,
        reach.everything,
        sorted(reach.projects),
        sorted(reach.factories),
        wanted.project_id,
        wanted.dataset_id,
        wanted.state,
        after,
        limit,
    )
    return [_request(row) for row in rows]


async def pending_for_dataset(tx: Transaction, dataset_id: DatasetId) -> list[str]:
    """Ids of the requests for a dataset that nobody has answered."""
    return [row["id"] for row in await tx.fetch(_PENDING_FOR_DATASET, dataset_id)]


async def waiting_for_allocation(tx: Transaction, project_id: ProjectId) -> list[tuple[str, DatasetId]]:
    """(request, dataset) of what a project asked for and what waits to learn where it computes, by dataset."""
    return [(row["id"], row["dataset_id"]) for row in await tx.fetch(_WAITING_FOR_ALLOCATION, project_id)]


async def get_project(tx: Transaction, project_id: ProjectId) -> Project:
    """Read what the plumbing keeps of a project. Raises ProjectUnknown."""
    row = await tx.fetchrow(_PROJECT, project_id)
    if row is None:
        raise ProjectUnknown(project_id)
    return Project(**row)


async def hold_project(tx: Transaction, project_id: ProjectId) -> None:
    """Let requests and allocations of one project pass one by one, even before the project is known."""
    await tx.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", project_id)


async def hold_machines(tx: Transaction, *, to_change: bool = False) -> None:
    """Keep what is known of machines steady until the end; `to_change` waits for all who rely on it.

    Taken before `hold_project`, always, so that two transactions cannot wait for each other.
    """
    kind = "pg_advisory_xact_lock" if to_change else "pg_advisory_xact_lock_shared"
    await tx.execute(f"SELECT {kind}($1)", _MACHINES_LOCK)


async def keep_allocation(
    tx: Transaction,
    allocation_id: AllocationId,
    project_id: ProjectId,
    machine_id: MachineId,
    ends_at: datetime,
    revision: int,
) -> None:
    """Remember where a project computes, and until when; the highest revision counts."""
    await tx.execute(_ADD_ALLOCATION, allocation_id, project_id, machine_id, ends_at, revision)


async def places_of(tx: Transaction, project_id: ProjectId, now: datetime) -> list[Place]:
    """One place for each allocation of a project that has not ended."""
    return [Place(**row) for row in await tx.fetch(_PLACES, project_id, now)]


async def machine_revision(tx: Transaction, machine_id: MachineId) -> int | None:
    """The revision of the last word on a machine; None when nothing was heard of it."""
    revision: int | None = await tx.fetchval(_MACHINE_REVISION, machine_id)
    return revision


async def keep_machine(tx: Transaction, machine_id: MachineId, revision: int, country: str | None) -> None:
    """Remember in which country a machine stands."""
    await tx.execute(_KEEP_MACHINE, machine_id, revision, country)


async def projects_on(tx: Transaction, machine_id: MachineId) -> list[ProjectId]:
    """Projects that have, or had, an allocation on a machine."""
    return [row["project_id"] for row in await tx.fetch(_PROJECTS_ON, machine_id)]


def _beginnings(text: str) -> str:
    # Only letters, digits and underscores are left, so nothing in the words can be an operator of the query.
    words = re.findall(r"\w+", text.lower())
    return " & ".join(f"'{word}':*" for word in words)


def _dataset(row: Row) -> Dataset:
    return Dataset(**{**dict(row), "residency": tuple(row["residency"])})


def _dataset_values(dataset: Dataset) -> tuple[object, ...]:
    values = asdict(dataset)
    return tuple(values[name.strip()] for name in _DATASET_COLUMNS.split(","))


def _request(row: Row) -> AccessRequest:
    return AccessRequest(**{**dict(row), "findings": tuple(Finding(**finding) for finding in row["findings"])})


def _request_values(request: AccessRequest) -> tuple[object, ...]:
    values = asdict(request) | {"findings": [asdict(finding) for finding in request.findings]}
    return tuple(values[name.strip()] for name in _REQUEST_COLUMNS.split(","))
