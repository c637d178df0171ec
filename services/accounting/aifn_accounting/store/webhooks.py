"""Webhooks, how far each has read, and the log of their deliveries."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from aifn_common.database import Transaction
from aifn_common.errors import NotFound
from aifn_events.vocabulary import FactoryId, ProjectId, Subject

_COLUMNS = """id, owner, through, project_id, factory_id, url, state, state_reason, generation, revision, usage_number,
    allocation_number, failures, next_attempt_at, created_at"""
_ADD = f"""
INSERT INTO webhook (id, owner, through, project_id, factory_id, url) VALUES ($1, $2, $3, $4, $5, $6)
RETURNING {_COLUMNS}"""
_LOCK_OWNERS = "SELECT pg_advisory_xact_lock(hashtextextended('webhooks of ' || $1, 0))"
_COUNT = "SELECT count(*) FROM webhook WHERE owner = $1"
_GET = f"SELECT {_COLUMNS} FROM webhook WHERE id = $1"
_LIST = f"""
SELECT {_COLUMNS} FROM webhook
WHERE ($1 OR factory_id = ANY($2::text[]) OR owner = $3 AND project_id = ANY($4::text[]))
  AND ($5::text IS NULL OR id > $5)
ORDER BY id LIMIT $6"""
_REMOVE = "DELETE FROM webhook WHERE id = $1"
_REWIND = f"""
UPDATE webhook SET usage_number = $2, allocation_number = $3, failures = 0, next_attempt_at = now(),
    state = CASE state WHEN 'paused' THEN 'active' ELSE state END,
    state_reason = CASE state WHEN 'paused' THEN 'told to go on' ELSE state_reason END, revision = revision + 1
WHERE id = $1 RETURNING {_COLUMNS}"""
_NEW_SECRET = f"""
UPDATE webhook SET generation = generation + 1, revision = revision + 1, failures = 0, next_attempt_at = now(),
    state = 'unconfirmed', state_reason = 'has a new secret, waits for the answer to its challenge'
WHERE id = $1 RETURNING {_COLUMNS}"""

# Numbers are in order of commit, so who has read up to the highest has missed nothing below it.
_TIP = "SELECT greatest((SELECT max(number) FROM usage_record), (SELECT max(position) FROM further_charge), 0)"
_DUE = f"""
SELECT {_COLUMNS} FROM webhook
WHERE next_attempt_at <= now() AND (state = 'unconfirmed' OR state = 'active' AND usage_number < $1)
ORDER BY next_attempt_at LIMIT $2"""
_ROLE = "SELECT role FROM membership WHERE subject = $1 AND project_id = $2"

# Each of these changes nothing if somebody has changed the webhook meanwhile: then the delivery was for an older one.
_CONFIRM = """
UPDATE webhook SET state = 'active', state_reason = 'repeated its challenge', failures = 0, next_attempt_at = now(),
    revision = revision + 1
WHERE id = $1 AND revision = $2"""
_ADVANCE = """
UPDATE webhook SET usage_number = $3, allocation_number = $4, failures = 0, next_attempt_at = now()
WHERE id = $1 AND revision = $2"""
_FAILED = """
UPDATE webhook SET failures = $3, next_attempt_at = now() + make_interval(secs => $4) WHERE id = $1 AND revision = $2"""
_STOP = """
UPDATE webhook SET state = $3, state_reason = $4, revision = revision + 1 WHERE id = $1 AND revision = $2"""

_LOG = """
INSERT INTO webhook_delivery (webhook_id, kind, attempt, records, first, last, address, status, outcome, took_ms)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 WHERE EXISTS (SELECT FROM webhook WHERE id = $1 FOR KEY SHARE)"""
_DELIVERIES = """
SELECT number, kind, attempt, records, first, last, address, status, outcome, took_ms, at FROM webhook_delivery
WHERE webhook_id = $1 AND ($2::bigint IS NULL OR number < $2) ORDER BY number DESC LIMIT $3"""
_FORGET = "DELETE FROM webhook_delivery WHERE at < now() - make_interval(days => $1)"


@dataclass(frozen=True)
class Webhook:
    """Somebody's address that is told of charges; the two numbers are the last charge it was given."""

    id: str
    owner: Subject
    through: str
    project_id: ProjectId | None
    factory_id: FactoryId
    url: str
    state: str
    state_reason: str
    generation: int
    revision: int
    usage_number: int
    allocation_number: int
    failures: int
    next_attempt_at: datetime
    created_at: datetime


@dataclass(frozen=True)
class Attempt:
    """What became of one call to a receiver; `status` is None when nothing was answered."""

    kind: str
    attempt: int
    records: int
    first: str | None
    last: str | None
    address: str | None
    status: int | None
    outcome: str
    took_ms: int


@dataclass(frozen=True)
class Delivery(Attempt):
    """A line of the log."""

    number: int
    at: datetime


async def add(
    tx: Transaction,
    webhook_id: str,
    *,
    owner: Subject,
    through: str,
    project_id: ProjectId | None,
    factory_id: FactoryId,
    url: str,
) -> Webhook:
    """Keep a new webhook; it waits for its challenge."""
    row = await tx.fetchrow(_ADD, webhook_id, owner, through, project_id, factory_id, url)
    assert row is not None
    return Webhook(**row)


async def count_of(tx: Transaction, owner: Subject) -> int:
    """How many webhooks somebody has; nobody else can add one of theirs until the transaction ends."""
    await tx.execute(_LOCK_OWNERS, owner)
    return int(await tx.fetchval(_COUNT, owner))


async def get(tx: Transaction, webhook_id: str) -> Webhook:
    """Read one. Raises NotFound."""
    return await _one(tx, webhook_id, _GET)


async def list_webhooks(
    tx: Transaction,
    *,
    everything: bool,
    factories: Iterable[FactoryId],
    owner: Subject,
    projects: Iterable[ProjectId],
    after: str | None,
    limit: int,
) -> list[Webhook]:
    """Those of the factories, and somebody's own for their projects, by id."""
    rows = await tx.fetch(_LIST, everything, list(factories), owner, list(projects), after, limit)
    return [Webhook(**row) for row in rows]


async def remove(tx: Transaction, webhook_id: str) -> None:
    """Forget a webhook and its log."""
    await tx.execute(_REMOVE, webhook_id)


async def rewind(tx: Transaction, webhook_id: str, place: tuple[int, int]) -> Webhook:
    """Have a webhook read from a place on again; one that was paused goes on. Raises NotFound."""
    return await _one(tx, webhook_id, _REWIND, *place)


async def new_secret(tx: Transaction, webhook_id: str) -> Webhook:
    """Give a webhook another secret, which it must confirm. Raises NotFound."""
    return await _one(tx, webhook_id, _NEW_SECRET)


async def _one(tx: Transaction, webhook_id: str, statement: str, *values: object) -> Webhook:
    row = await tx.fetchrow(statement, webhook_id, *values)
    if row is None:
        raise NotFound(f"there is no webhook {webhook_id}")
    return Webhook(**row)


async def tip(tx: Transaction) -> int:
    """The highest number of a usage record."""
    return int(await tx.fetchval(_TIP))


async def list_due(tx: Transaction, highest: int, *, limit: int) -> list[Webhook]:
    """Those that have something to be told, the longest waiting first."""
    return [Webhook(**row) for row in await tx.fetch(_DUE, highest, limit)]


async def role_of(tx: Transaction, subject: Subject, project_id: ProjectId) -> str | None:
    """What somebody is in a project, None: nothing."""
    role: str | None = await tx.fetchval(_ROLE, subject, project_id)
    return role


async def confirm(tx: Transaction, webhook: Webhook) -> None:
    """It repeated its challenge."""
    await tx.execute(_CONFIRM, webhook.id, webhook.revision)


async def advance(tx: Transaction, webhook: Webhook, place: tuple[int, int]) -> None:
    """It was given everything up to a place."""
    await tx.execute(_ADVANCE, webhook.id, webhook.revision, *place)


async def put_failure(tx: Transaction, webhook: Webhook, *, failures: int, pause: int) -> None:
    """Another call failed; the next comes after a pause, in seconds."""
    await tx.execute(_FAILED, webhook.id, webhook.revision, failures, float(pause))


async def stop(tx: Transaction, webhook: Webhook, state: str, reason: str) -> None:
    """It is told nothing more until somebody sees to it."""
    await tx.execute(_STOP, webhook.id, webhook.revision, state, reason)


async def log_attempt(tx: Transaction, webhook_id: str, one: Attempt) -> None:
    """Write a line into the log, unless the webhook was removed meanwhile."""
    await tx.execute(
        _LOG,
        webhook_id,
        one.kind,
        one.attempt,
        one.records,
        one.first,
        one.last,
        one.address,
        one.status,
        one.outcome,
        one.took_ms,
    )


async def list_deliveries(tx: Transaction, webhook_id: str, *, before: int | None, limit: int) -> list[Delivery]:
    """The log of a webhook, newest first."""
    return [Delivery(**row) for row in await tx.fetch(_DELIVERIES, webhook_id, before, limit)]


async def forget_log(tx: Transaction, *, days: int) -> None:
    """Drop lines that are older."""
    await tx.execute(_FORGET, days)
