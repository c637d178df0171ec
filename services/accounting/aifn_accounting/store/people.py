"""What is known of people beside their roles, who used what, and resources that no machine brings."""

from dataclasses import dataclass
from datetime import date, datetime

from aifn_common.database import Transaction
from aifn_common.errors import NotFound
from aifn_events.vocabulary import FactoryId, ProjectId, ResourceId, Subject

_PEOPLE = """
SELECT m.subject, m.role, p.contract_ends_on, p.local_user, coalesce(p.revision, 0) AS revision
FROM membership m LEFT JOIN person p ON (p.project_id, p.subject) = (m.project_id, m.subject)
WHERE m.project_id = $1 AND ($2::text IS NULL OR m.subject > $2) ORDER BY m.subject LIMIT $3"""
_PERSON = """
SELECT m.subject, m.role, p.contract_ends_on, p.local_user, coalesce(p.revision, 0) AS revision
FROM membership m LEFT JOIN person p ON (p.project_id, p.subject) = (m.project_id, m.subject)
WHERE m.project_id = $1 AND m.subject = $2"""
_LEADERS = """
SELECT m.subject, m.role, p.contract_ends_on, p.local_user, coalesce(p.revision, 0) AS revision
FROM membership m LEFT JOIN person p ON (p.project_id, p.subject) = (m.project_id, m.subject)
WHERE m.project_id = $1 AND m.role = 'pi' ORDER BY m.subject"""
_PUT_PERSON = """
INSERT INTO person (project_id, subject, contract_ends_on, local_user, revision) VALUES ($1, $2, $3, $4, 1)
ON CONFLICT (project_id, subject) DO UPDATE SET contract_ends_on = EXCLUDED.contract_ends_on,
    local_user = EXCLUDED.local_user, revision = person.revision + 1"""
_LAST_END = "SELECT max(ends_at) FROM allocation WHERE project_id = $1"
# Names at the site come out only for those who may see them; the pseudonym is what everybody else has.
_USE_BY_PERSON = """
WITH job AS (
    SELECT DISTINCT t.job_id FROM ledger_transfer t JOIN allocation a ON a.number = t.allocation_number
    WHERE a.project_id = $1 AND t.kind = 'charge'
)
SELECT u.pseudonym, u.local_user, p.subject, c.resource, sum(c.amount)::bigint AS amount,
    count(DISTINCT u.job_id)::int AS jobs, max(u.ended_at) AS last_ended_at
FROM job
JOIN current_usage u ON u.job_id = job.job_id
JOIN usage_charge c ON c.usage_number = u.number
JOIN allocation a ON a.number = c.allocation_number
LEFT JOIN person p ON p.project_id = a.project_id AND p.local_user = u.local_user
WHERE a.project_id = $1
  AND ($2::timestamptz IS NULL OR u.ended_at >= $2) AND ($3::timestamptz IS NULL OR u.ended_at < $3)
  AND ($4::text IS NULL OR p.subject = $4)
  AND ($5::text IS NULL OR (u.pseudonym, c.resource) > ($5, $6))
GROUP BY u.pseudonym, u.local_user, p.subject, c.resource
ORDER BY u.pseudonym, c.resource, u.local_user LIMIT $7"""

_ADD_RESOURCE = """
INSERT INTO other_resource (id, unit, title, factory_id, registered_by, registered_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (id) DO NOTHING"""
_RESOURCES = """
SELECT id, unit, title, factories FROM (
    SELECT id, unit, machine_id || ' ' || partition_id AS title, factory_ids AS factories FROM resource
    UNION ALL SELECT id, unit, title, ARRAY[factory_id] FROM other_resource
) known WHERE $1::text IS NULL OR id > $1 ORDER BY id LIMIT $2"""
_RESOURCE = """
SELECT unit, factory_ids AS factories, units_per_node, nodes FROM resource WHERE id = $1
UNION ALL SELECT unit, ARRAY[factory_id], NULL, NULL FROM other_resource WHERE id = $1"""


@dataclass(frozen=True)
class Person:
    """A member, and what is known beside the role."""

    subject: Subject
    role: str
    contract_ends_on: date | None
    local_user: str | None
    revision: int


@dataclass(frozen=True)
class UseByPerson:
    """What one person took of one resource."""

    pseudonym: str
    local_user: str
    subject: Subject | None
    resource: ResourceId
    amount: int
    jobs: int
    last_ended_at: datetime


@dataclass(frozen=True)
class Known:
    """A resource: its unit, whose it is, and, of a machine's, how much there is."""

    unit: str
    factories: list[FactoryId]
    units_per_node: int | None
    nodes: int | None


@dataclass(frozen=True)
class Listed:
    """A resource in a list."""

    id: ResourceId
    unit: str
    title: str
    factories: list[FactoryId]


async def list_people(tx: Transaction, project_id: ProjectId, *, after: str | None, limit: int) -> list[Person]:
    """A project's members, by subject."""
    return [Person(**row) for row in await tx.fetch(_PEOPLE, project_id, after, limit)]


async def get_person(tx: Transaction, project_id: ProjectId, subject: Subject) -> Person:
    """One member. Raises NotFound."""
    row = await tx.fetchrow(_PERSON, project_id, subject)
    if row is None:
        raise NotFound(f"{subject} is not a member of {project_id}")
    return Person(**row)


async def leaders(tx: Transaction, project_id: ProjectId) -> list[Person]:
    """A project's principal investigators."""
    return [Person(**row) for row in await tx.fetch(_LEADERS, project_id)]


async def put_person(
    tx: Transaction, project_id: ProjectId, subject: Subject, *, contract_ends_on: date | None, local_user: str | None
) -> None:
    """Keep what was said of a member."""
    await tx.execute(_PUT_PERSON, project_id, subject, contract_ends_on, local_user)


async def last_end(tx: Transaction, project_id: ProjectId) -> datetime | None:
    """When the last of a project's allocations ends; None if it has none."""
    found: datetime | None = await tx.fetchval(_LAST_END, project_id)
    return found


async def use_by_person(
    tx: Transaction,
    project_id: ProjectId,
    *,
    since: datetime | None,
    until: datetime | None,
    subject: Subject | None,
    after: tuple[str, str] | None,
    limit: int,
) -> list[UseByPerson]:
    """What people took, by pseudonym and resource; `subject`: of this person only."""
    pseudonym, resource = after or (None, None)
    rows = await tx.fetch(_USE_BY_PERSON, project_id, since, until, subject, pseudonym, resource, limit)
    return [UseByPerson(**row) for row in rows]


async def add_resource(
    tx: Transaction, resource: ResourceId, *, unit: str, title: str, factory_id: FactoryId, by: Subject, at: datetime
) -> bool:
    """Keep a resource that no machine brings; False if it is there."""
    return await tx.execute(_ADD_RESOURCE, resource, unit, title, factory_id, by, at) == "INSERT 0 1"


async def list_resources(tx: Transaction, *, after: str | None, limit: int) -> list[Listed]:
    """All resources, by id."""
    return [Listed(**row) for row in await tx.fetch(_RESOURCES, after, limit)]


async def find_resource(tx: Transaction, resource: ResourceId) -> Known | None:
    """How a resource is counted and whose it is; None if nobody brought it."""
    row = await tx.fetchrow(_RESOURCE, resource)
    return None if row is None else Known(**row)
