"""Usage records, what they cost, rate cards, resources, and what sites say of their days."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import msgspec
from aifn_common import outbox
from aifn_common.copying import NULL, bigint, bigints, copied_row, copy_rows, integers, moments, raw, text, words
from aifn_common.database import Database, Transaction
from aifn_events.usage import UsageCharged
from aifn_events.vocabulary import FactoryId, JobId, MachineId, ResourceId

from aifn_accounting.domain.rates import occupied_json, read_rule
from aifn_accounting.domain.usage import Charge, Identity, RateCard, Size, Statement, Usage

_LAST_NUMBER = "SELECT last_usage_number()"
# One list to send and mostly nothing to return; the same local job id of another time or segment is dropped here.
_KNOWN = """
SELECT number, local_job_id, machine_id, submitted_at, segment, revision FROM usage_record
WHERE local_job_id = ANY($1::text[]) AND machine_id = ANY($2::text[])"""
# What many rows have together stands together: it is put into bytes once.
RECORD_COLUMNS = (
    "number",
    "machine_id",
    "partition_id",
    "kind",
    "state",
    "collector",
    "project_id",
    "local_user",
    "pseudonym",
    "local_job_id",
    "job_id",
    "segment",
    "revision",
    "nodes",
    "submitted_at",
    "started_at",
    "ended_at",
    "amounts",
    "recorded_at",
    "occupied",
    "allocation_number",
    "charged",
    "rate_card",
)
_NO_CHARGE = NULL * 3
_as_json = msgspec.json.Encoder().encode
_STATEMENTS = """
SELECT number, job_id, project_id, started_at, ended_at, amounts, occupied FROM usage_record
WHERE number = ANY($1::bigint[])"""
_EARLIER = """
SELECT u.job_id, c.usage_number, c.allocation_number, c.resource, c.amount, c.rate_card
FROM usage_charge c JOIN usage_record u ON u.number = c.usage_number WHERE c.usage_number = ANY($1::bigint[])"""
# For the busiest of all streams the message is made where the values are. Only a local job id may hold what JSON writes
# in another way: all other texts are identifiers of ours. A test reads the result as the event it is.
_CHARGE_MESSAGES = """
SELECT c.usage_number || '-' || c.allocation_number, convert_to(a.project_id, 'UTF8'),
    convert_to(format(
        '{"machine_id":"%s","local_job_id":%s,"submitted_at":"%sZ","segment":%s,"revision":%s,"job_id":"%s",'
        '"project_id":"%s","allocation_id":"%s","resource":"%s","amount":%s,"rate_card":"%s","ended_at":"%sZ",'
        '"user":"%s"}',
        u.machine_id, to_json(u.local_job_id), replace((u.submitted_at AT TIME ZONE 'UTC')::text, ' ', 'T'),
        u.segment, u.revision, u.job_id, a.project_id, a.id, c.resource, c.amount, c.rate_card,
        replace((u.ended_at AT TIME ZONE 'UTC')::text, ' ', 'T'), u.pseudonym
    ), 'UTF8')
FROM usage_charge c
JOIN usage_record u ON u.number = c.usage_number
JOIN allocation a ON a.number = c.allocation_number
WHERE c.usage_number BETWEEN $1 AND $2 AND NOT c.settled
ORDER BY c.usage_number, c.allocation_number"""
_SEGMENTS = "SELECT job_id, count(*)::int AS segments FROM current_usage WHERE job_id = ANY($1::text[]) GROUP BY 1"
_CARDS = "SELECT id, resource, numerator, denominator, valid_from, valid_until, rule FROM rate_card"

_PUT_RESOURCE = """
INSERT INTO resource (id, machine_id, partition_id, unit, units_per_node, devices_per_node, gpus_per_node,
    cores_per_node, nodes, factory_ids, revision)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (id) DO UPDATE SET unit = EXCLUDED.unit, units_per_node = EXCLUDED.units_per_node,
    devices_per_node = EXCLUDED.devices_per_node, gpus_per_node = EXCLUDED.gpus_per_node,
    cores_per_node = EXCLUDED.cores_per_node, nodes = EXCLUDED.nodes, factory_ids = EXCLUDED.factory_ids,
    revision = EXCLUDED.revision
WHERE resource.revision < EXCLUDED.revision"""
_SIZES = "SELECT id, units_per_node, nodes FROM resource"
_MACHINE_REVISION = "SELECT max(revision) FROM resource WHERE machine_id = $1"
_FACTORIES = "SELECT factory_ids FROM resource WHERE id = $1"

_DAY_REVISION = "SELECT revision FROM usage_day WHERE machine_id = $1 AND day = $2 FOR UPDATE"
_PUT_DAY = """
INSERT INTO usage_day (machine_id, day, revision, records, totals, digest, stated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (machine_id, day) DO UPDATE SET revision = EXCLUDED.revision, records = EXCLUDED.records,
    totals = EXCLUDED.totals, digest = EXCLUDED.digest, stated_at = EXCLUDED.stated_at"""


async def last_number(tx: Transaction) -> int:
    """The highest number that a usage record or a charge has; `lock_usage` first."""
    return int(await tx.fetchval(_LAST_NUMBER))


async def known_revisions(tx: Transaction, identities: Sequence[Identity]) -> dict[Identity, dict[int, int]]:
    """Of these records: the numbers of the revisions that are stored, by identity and revision."""
    found: dict[Identity, dict[int, int]] = defaultdict(dict)
    jobs, machines = {one[0] for one in identities}, {one[1] for one in identities}
    rows = await tx.fetch(_KNOWN, list(jobs), list(machines))
    wanted = set(identities) if rows else set()  # mostly there is none
    for number, *identity, revision in rows:
        key: Identity = (identity[0], identity[1], identity[2], identity[3])
        if key in wanted:
            found[key][revision] = number
    return found


async def statements(tx: Transaction, numbers: Sequence[int]) -> dict[int, Statement]:
    """What stored records say of job, project, time and amounts, by number."""
    rows = await tx.fetch(_STATEMENTS, numbers)
    return {
        row["number"]: Statement(
            row["job_id"],
            row["project_id"],
            row["started_at"],
            row["ended_at"],
            json.loads(row["amounts"]),
            row["occupied"],
        )
        for row in rows
    }


async def add_records(tx: Transaction, rows: Iterable[bytes]) -> None:
    """Keep usage records, each as `record_row` makes it."""
    await copy_rows(tx, "usage_record", rows, columns=RECORD_COLUMNS)


def record_row(number: int, event: Usage, charge: Charge | None, pseudonym: str, at: bytes) -> bytes:
    """A usage record with its first charge as a row of its table.

    Args:
        at: when it was recorded, as `copying.moment` makes it.
    """
    occupied = occupied_json(event)
    return copied_row(
        len(RECORD_COLUMNS),
        bigint(number),
        words(
            event.machine_id,
            event.partition_id,
            event.kind,
            event.state,
            event.collector,
            event.project_id,
            event.local_user,
            pseudonym,
        ),
        text(event.local_job_id),
        text(event.job_id),
        integers(event.segment, event.revision, event.nodes),
        moments(event.submitted_at, event.started_at, event.ended_at),
        raw(_as_json(event.amounts)),
        at,
        NULL if occupied is None else text(occupied),
        _NO_CHARGE if charge is None else bigints(charge.allocation, charge.amount) + words(charge.rate_card),
    )


async def add_further_charges(
    tx: Transaction, charges: Sequence[Charge], positions: Mapping[int, int] | None = None
) -> None:
    """Keep what records cost beside the charge that stands with each of them.

    Args:
        positions: of records that waited: the place of their charges among all, by the record's number.
    """
    rows = [
        (one.usage, one.allocation, one.amount, one.rate_card, positions[one.usage] if positions else one.usage)
        for one in charges
    ]
    if rows:
        await tx.copy_records_to_table("further_charge", records=rows)


@outbox.series(UsageCharged)
async def charge_messages(db: Database, first: int, last: int) -> list[outbox.Message]:
    """What the records from one number to another cost, as messages; without what was settled later."""
    return [(row[0], row[1], row[2]) for row in await db.fetch(_CHARGE_MESSAGES, first, last)]


async def earlier_charges(tx: Transaction, numbers: Sequence[int]) -> dict[int, list[tuple[JobId, Charge]]]:
    """What stored records cost, each charge with the job it was for, by the record's number."""
    found: dict[int, list[tuple[JobId, Charge]]] = defaultdict(list)
    if not numbers:
        return found
    for job_id, *charge in await tx.fetch(_EARLIER, numbers):
        found[charge[0]].append((job_id, Charge(*charge)))
    return found


async def count_segments(tx: Transaction, job_ids: Sequence[JobId]) -> dict[JobId, int]:
    """How many run segments of each job are stored."""
    return {row["job_id"]: row["segments"] for row in await tx.fetch(_SEGMENTS, job_ids)}


async def rate_cards(tx: Transaction) -> list[RateCard]:
    """All rate cards."""
    return [
        RateCard(id_, resource, numerator, denominator, since, until, read_rule(rule))
        for id_, resource, numerator, denominator, since, until, rule in await tx.fetch(_CARDS)
    ]


async def sizes(tx: Transaction) -> dict[ResourceId, Size]:
    """How much there is, of every resource whose machine is known."""
    return {resource: Size(*size) for resource, *size in await tx.fetch(_SIZES)}


async def factories_of(tx: Transaction, resource: ResourceId) -> list[FactoryId] | None:
    """The factories of the machine that has this resource; None if no machine is known to."""
    found: list[FactoryId] | None = await tx.fetchval(_FACTORIES, resource)
    return found


async def machine_revision(tx: Transaction, machine_id: MachineId) -> int | None:
    """The revision in which a machine is known; None if it is not."""
    value: int | None = await tx.fetchval(_MACHINE_REVISION, machine_id)
    return value


async def put_resource(
    tx: Transaction,
    resource: ResourceId,
    machine_id: MachineId,
    partition_id: str,
    *,
    unit: str,
    units_per_node: int,
    devices_per_node: int | None,
    gpus_per_node: int | None,
    cores_per_node: int | None,
    nodes: int | None,
    factory_ids: Sequence[FactoryId],
    revision: int,
) -> None:
    """Remember how a resource is counted; an older word changes nothing."""
    await tx.execute(
        _PUT_RESOURCE,
        resource,
        machine_id,
        partition_id,
        unit,
        units_per_node,
        devices_per_node,
        gpus_per_node,
        cores_per_node,
        nodes,
        list(factory_ids),
        revision,
    )


async def day_revision(tx: Transaction, machine_id: MachineId, day: date) -> int | None:
    """The revision of the statement that is known for a site-day."""
    value: int | None = await tx.fetchval(_DAY_REVISION, machine_id, day)
    return value


async def put_day(
    tx: Transaction,
    machine_id: MachineId,
    day: date,
    *,
    revision: int,
    records: int,
    totals: list[dict[str, Any]],
    digest: str,
    at: datetime,
) -> None:
    """Keep what a site says it has sent for a day."""
    await tx.execute(_PUT_DAY, machine_id, day, revision, records, totals, digest, at)
