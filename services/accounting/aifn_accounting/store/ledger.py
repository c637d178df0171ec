"""Projects, allocations, holds, and the ledger itself."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from aifn_common.copying import NULL, bigint, copied_row, copy_rows, moment, text, words
from aifn_common.database import Row, Transaction
from aifn_common.errors import NotFound
from aifn_events.vocabulary import AllocationId, FactoryId, JobId, ProjectId, ResourceId, Subject

from aifn_accounting.domain.ledger import OWN_ROLES, POOL_ROLES, Allocation, Balance, Entry, Hold, Kind, Pool, Role

_PROJECT = "SELECT id, title, factory_id, revision, closed, created_by, created_at FROM project WHERE id = $1"
_MEMBERS = "SELECT subject, role FROM membership WHERE project_id = $1 ORDER BY subject"
_PROJECTS = """
SELECT id, title, factory_id, revision, closed, created_by, created_at FROM project
WHERE ($1 OR id = ANY($2::text[]) OR factory_id = ANY($3::text[])) AND ($4::text IS NULL OR id > $4)
ORDER BY id LIMIT $5"""
_ADD_PROJECT = """
INSERT INTO project (id, title, factory_id, created_by, created_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO NOTHING"""
_CLOSE_PROJECT = "UPDATE project SET closed = true WHERE id = $1"
_RAISE_REVISION = "UPDATE project SET revision = revision + 1 WHERE id = $1 RETURNING revision"

_AWARD_KNOWN = "SELECT EXISTS (SELECT FROM award WHERE id = $1)"
_APPLIED_FOR = "SELECT EXISTS (SELECT FROM award WHERE project_id = $1 AND application_id = $2)"
_ADD_AWARD = """
INSERT INTO award (id, project_id, application_id, mode, policy_version, deciding_authority, applicant_kind, country,
    starts_at, ends_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"""

_ADD_ACCOUNTS = """
INSERT INTO account (owner, role, resource) SELECT $1, role, $2 FROM unnest($3::text[]) AS role
ON CONFLICT (owner, role, resource) DO NOTHING"""
_ACCOUNTS = "SELECT role, id FROM account WHERE owner = ANY($1::text[]) AND resource = $2"
_ADD_ALLOCATION = """
INSERT INTO allocation (id, project_id, award_id, resource, pool, starts_at, ends_at, reason, granted_by, granted_at,
    available_account, held_account, consumed_account, overrun_account)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING number"""

_PUT_TERMS = """
UPDATE allocation SET pool_id = $2, mode = $3, policy_version = $4, earmark = $5, use_or_lose = $6,
    inference_cap_pct = $7, first_granted = $8, first_ends_at = ends_at WHERE number = $1"""

_ALLOCATION_COLUMNS = """number, id, project_id, resource, starts_at, ends_at, granted, held, charged,
    available_account, held_account, consumed_account, overrun_account"""
_LOCK_ALLOCATIONS = f"""
SELECT {_ALLOCATION_COLUMNS} FROM allocation
WHERE (project_id = ANY($1::text[]) AND ($2::text IS NULL OR resource = $2)) OR number = ANY($3::bigint[])
ORDER BY number FOR UPDATE"""

_BUDGET = """
SELECT job_id, project_id, revision, allocation_number, amount, segments_expected, outcome, closed_at, released_at
FROM job_budget WHERE job_id = $1"""
_HOLDS = """
SELECT job_id, allocation_number, amount, 0 AS drawn, segments_expected, released_at IS NOT NULL AS released
FROM job_budget WHERE job_id = ANY($1::text[]) AND allocation_number IS NOT NULL"""
_USED_ALREADY = "SELECT DISTINCT job_id FROM usage_record WHERE job_id = ANY($1::text[])"
_DRAWN = """
SELECT u.job_id, c.allocation_number, sum(c.amount)::bigint AS amount
FROM current_usage u JOIN usage_charge c ON c.usage_number = u.number WHERE u.job_id = ANY($1::text[]) GROUP BY 1, 2"""
_PUT_HOLD = """
INSERT INTO job_budget (job_id, project_id, revision, allocation_number, amount)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (job_id) DO UPDATE SET revision = EXCLUDED.revision, allocation_number = EXCLUDED.allocation_number,
    amount = EXCLUDED.amount"""
_CLOSE_JOB = """
INSERT INTO job_budget (job_id, project_id, segments_expected, outcome, closed_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (job_id) DO UPDATE
SET segments_expected = EXCLUDED.segments_expected, outcome = EXCLUDED.outcome, closed_at = EXCLUDED.closed_at"""
_RELEASED = "UPDATE job_budget SET released_at = $2 WHERE job_id = ANY($1::text[]) AND released_at IS NULL"

_PUT_BALANCES = """
UPDATE allocation a SET granted = n.granted, held = n.held, charged = n.charged, available = n.available,
    overrun = n.overrun
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
    AS n (number, granted, held, charged, available, overrun)
WHERE a.number = n.number"""
_TRANSFER_COLUMNS = (
    "allocation_number",
    "kind",
    "source",
    "target",
    "resource",
    "amount",
    "job_id",
    "usage_number",
    "recorded_at",
)


@dataclass(frozen=True)
class Member:
    """A person's part in a project."""

    subject: Subject
    role: str


@dataclass(frozen=True)
class Project:
    """A project; its members stand apart."""

    id: ProjectId
    title: str
    factory_id: FactoryId
    revision: int
    closed: bool
    created_by: str
    created_at: datetime


@dataclass(frozen=True)
class Budget:
    """What is known of a job's money: what was asked, by which placement, and whether the job is over."""

    job_id: JobId
    project_id: ProjectId
    revision: int | None
    allocation_number: int | None
    amount: int
    segments_expected: int | None
    outcome: str | None
    closed_at: datetime | None
    released_at: datetime | None


@dataclass(frozen=True)
class Award:
    """What a decision gave a project, besides amounts."""

    id: str
    project_id: ProjectId
    application_id: str
    mode: str
    policy_version: str
    deciding_authority: str
    applicant_kind: str
    country: str
    starts_at: datetime
    ends_at: datetime


async def add_project(
    tx: Transaction, project_id: ProjectId, title: str, factory_id: FactoryId, *, by: str, at: datetime
) -> bool:
    """Keep a new project at revision 0; False if the id is taken."""
    return await tx.execute(_ADD_PROJECT, project_id, title, factory_id, by, at) == "INSERT 0 1"


async def find_project(tx: Transaction, project_id: ProjectId, *, lock: bool = False) -> Project | None:
    """Read a project, None if there is no such; `lock` holds the row until the end."""
    row = await tx.fetchrow(_PROJECT + (" FOR UPDATE" if lock else ""), project_id)
    return None if row is None else Project(**row)


async def get_project(tx: Transaction, project_id: ProjectId, *, lock: bool = False) -> Project:
    """The same for one that must exist. Raises NotFound."""
    project = await find_project(tx, project_id, lock=lock)
    if project is None:
        raise NotFound(f"project {project_id} is not known")
    return project


async def list_projects(
    tx: Transaction,
    *,
    everything: bool,
    projects: Iterable[ProjectId],
    factories: Iterable[FactoryId],
    after: str | None,
    limit: int,
) -> list[Project]:
    """Projects by id, from `after` on: all, or those named and those of some factories."""
    rows = await tx.fetch(_PROJECTS, everything, list(projects), list(factories), after, limit)
    return [Project(**row) for row in rows]


async def list_members(tx: Transaction, project_id: ProjectId) -> list[Member]:
    """Who belongs to a project."""
    return [Member(**row) for row in await tx.fetch(_MEMBERS, project_id)]


async def raise_revision(tx: Transaction, project_id: ProjectId) -> int:
    """Count a change of a project; returns the new revision."""
    return int(await tx.fetchval(_RAISE_REVISION, project_id))


async def close_project(tx: Transaction, project_id: ProjectId) -> None:
    """Keep that a project is over."""
    await tx.execute(_CLOSE_PROJECT, project_id)


async def put_terms(
    tx: Transaction,
    allocation: int,
    *,
    pool_id: str | None,
    mode: str | None,
    policy_version: str | None,
    earmark: str | None,
    use_or_lose: str | None,
    inference_cap_pct: int | None,
    amount: int,
) -> None:
    """Keep under what an allocation was given, and how much that was at first."""
    await tx.execute(
        _PUT_TERMS, allocation, pool_id, mode, policy_version, earmark, use_or_lose, inference_cap_pct, amount
    )


async def award_known(tx: Transaction, award_id: str) -> bool:
    """Whether an award was carried out before."""
    return bool(await tx.fetchval(_AWARD_KNOWN, award_id))


async def applied_for(tx: Transaction, project_id: ProjectId, application_id: str) -> bool:
    """Whether an award to this application was carried out for this project."""
    return bool(await tx.fetchval(_APPLIED_FOR, project_id, application_id))


async def add_award(tx: Transaction, award: Award) -> None:
    """Keep what an award was about."""
    await tx.execute(
        _ADD_AWARD,
        award.id,
        award.project_id,
        award.application_id,
        award.mode,
        award.policy_version,
        award.deciding_authority,
        award.applicant_kind,
        award.country,
        award.starts_at,
        award.ends_at,
    )


async def add_allocation(
    tx: Transaction,
    allocation_id: AllocationId,
    project_id: ProjectId,
    resource: ResourceId,
    *,
    pool: Pool,
    starts_at: datetime,
    ends_at: datetime,
    award_id: str | None,
    reason: str,
    by: str,
    at: datetime,
) -> Allocation:
    """Open an allocation with its accounts, and its pool's if that is new; nothing is granted yet."""
    owners: tuple[tuple[str, Sequence[Role]], ...] = ((allocation_id, OWN_ROLES), (f"pool:{pool}", [POOL_ROLES[pool]]))
    for owner, owned in owners:
        await tx.execute(_ADD_ACCOUNTS, owner, resource, list(owned))
    found = await tx.fetch(_ACCOUNTS, [owner for owner, _ in owners], resource)
    accounts: dict[Role, int] = {row["role"]: row["id"] for row in found}
    number = await tx.fetchval(
        _ADD_ALLOCATION,
        allocation_id,
        project_id,
        award_id,
        resource,
        pool,
        starts_at,
        ends_at,
        reason,
        by,
        at,
        *(accounts[role] for role in OWN_ROLES),
    )
    return Allocation(number, allocation_id, project_id, resource, starts_at, ends_at, accounts, Balance())


async def lock_allocations(
    tx: Transaction, *, projects: Iterable[ProjectId] = (), resource: ResourceId | None = None, also: Iterable[int] = ()
) -> list[Allocation]:
    """Read allocations of some projects, of all resources or one, and those numbered; rows are held until the end.

    All who lock do so in the order of numbers, so that nobody waits in a circle.
    """
    rows = await tx.fetch(_LOCK_ALLOCATIONS, list(projects), resource, list(also))
    return [_allocation(row) for row in rows]


def _allocation(row: Row) -> Allocation:
    number, identifier, project_id, resource, starts_at, ends_at, granted, held, charged, *accounts = row
    own = _own_accounts(*accounts)
    return Allocation(
        number, identifier, project_id, resource, starts_at, ends_at, own, Balance(granted, held, charged)
    )


def _own_accounts(available: int, held: int, consumed: int, overrun: int) -> dict[Role, int]:
    return {"available": available, "held": held, "consumed": consumed, "overrun": overrun}


async def get_budget(tx: Transaction, job_id: JobId) -> Budget | None:
    """What is known of a job's money; None if nothing is."""
    row = await tx.fetchrow(_BUDGET, job_id)
    return None if row is None else Budget(**row)


async def get_holds(tx: Transaction, job_ids: Sequence[JobId]) -> dict[JobId, Hold]:
    """The holds of jobs, by job, released ones too."""
    holds = {row[0]: Hold(*row) for row in await tx.fetch(_HOLDS, job_ids)}
    for job_id, drawn in (await drawn_if_used(tx, job_ids)).items():
        hold = holds.get(job_id)
        if hold is not None:
            hold.drawn = drawn.get(hold.allocation, 0)
    return holds


async def drawn_if_used(tx: Transaction, job_ids: Sequence[JobId]) -> dict[JobId, dict[int, int]]:
    """As `drawn_by_jobs`, for jobs that are nearly all heard of for the first time: the sums cost more than to ask
    which of them are not.
    """
    return await drawn_by_jobs(tx, [row[0] for row in await tx.fetch(_USED_ALREADY, job_ids)])


async def drawn_by_jobs(tx: Transaction, job_ids: Sequence[JobId]) -> dict[JobId, dict[int, int]]:
    """What the usage of jobs costs so far, by job and allocation."""
    found: dict[JobId, dict[int, int]] = {}
    if job_ids:
        for job_id, allocation, amount in await tx.fetch(_DRAWN, job_ids):
            found.setdefault(job_id, {})[allocation] = amount
    return found


async def put_hold(tx: Transaction, job_id: JobId, project_id: ProjectId, revision: int, hold: Hold | None) -> None:
    """Remember what a placement of a job got: a hold, or None because it was refused."""
    if hold is None:
        await tx.execute(_PUT_HOLD, job_id, project_id, revision, None, 0)
    else:
        await tx.execute(_PUT_HOLD, job_id, project_id, revision, hold.allocation, hold.amount)


async def mark_released(tx: Transaction, job_ids: Sequence[JobId], at: datetime) -> None:
    """Remember that what is left of these jobs' holds went back."""
    if job_ids:
        await tx.execute(_RELEASED, job_ids, at)


async def close_job(
    tx: Transaction, job_id: JobId, project_id: ProjectId, *, segments: int, outcome: str, at: datetime
) -> None:
    """Remember that a job is over."""
    await tx.execute(_CLOSE_JOB, job_id, project_id, segments, outcome, at)


async def add_transfers(
    tx: Transaction, allocations: Mapping[int, Allocation], entries: Iterable[Entry], at: datetime
) -> None:
    """Write transfers while they are being made. The allocations must be locked."""
    await copy_rows(tx, "ledger_transfer", _transfer_rows(allocations, entries, at), columns=_TRANSFER_COLUMNS)


async def put_balances(tx: Transaction, balances: Mapping[int, Balance]) -> None:
    """Write how allocations stand now. They must be locked."""
    stand = [(number, *b, b.available, b.overrun) for number, b in balances.items()]
    await tx.execute(_PUT_BALANCES, *([row[i] for row in stand] for i in range(6)))


def _transfer_rows(allocations: Mapping[int, Allocation], entries: Iterable[Entry], at: datetime) -> Iterator[bytes]:
    when = moment(at)
    heads: dict[tuple[int, Kind, Role, Role], bytes] = {}
    for number, kind, source, target, amount, job_id, usage in entries:
        head = heads.get((number, kind, source, target))
        if head is None:
            accounts, resource = allocations[number].accounts, allocations[number].resource
            head = bigint(number) + words(kind) + bigint(accounts[source]) + bigint(accounts[target]) + words(resource)
            heads[number, kind, source, target] = head
        yield copied_row(
            len(_TRANSFER_COLUMNS),
            head,
            bigint(amount),
            NULL if job_id is None else text(job_id),
            NULL if usage is None else bigint(usage),
            when,
        )
