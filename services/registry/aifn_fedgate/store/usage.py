"""Charges without their people, and their sums by project, resource and hour."""

from collections.abc import Sequence

from aifn_common.database import Transaction

from aifn_fedgate.domain.usage import HourKey

_LOCK = "SELECT FROM usage_charge WHERE identity = ANY($1::bytea[]) ORDER BY identity FOR UPDATE"
# `before` must not lock: a row that is locked and changed in one statement is not seen by it.
_PUT = """
WITH said AS (
    SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::timestamptz[], $5::int[], $6::bigint[])
        AS t(identity, project_id, resource, hour, revision, amount)
), before AS (
    SELECT c.* FROM usage_charge AS c JOIN said USING (identity)
), put AS (
    INSERT INTO usage_charge AS c (identity, project_id, resource, hour, revision, amount)
    SELECT identity, project_id, resource, hour, revision, amount FROM said
    ON CONFLICT (identity) DO UPDATE SET project_id = excluded.project_id, resource = excluded.resource,
        hour = excluded.hour, revision = excluded.revision, amount = excluded.amount
    WHERE excluded.revision > c.revision
    RETURNING identity, project_id, resource, hour, amount
), change AS (
    SELECT project_id, resource, hour, amount, 1 AS records FROM put
    UNION ALL
    SELECT b.project_id, b.resource, b.hour, -b.amount, -1 FROM before AS b JOIN put USING (identity)
)
INSERT INTO usage_hour AS h (project_id, resource, hour, amount, records)
SELECT project_id, resource, hour, sum(amount), sum(records) FROM change GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
ON CONFLICT (project_id, resource, hour) DO UPDATE SET amount = h.amount + excluded.amount,
    records = h.records + excluded.records, revision = h.revision + h.told::int, told = false"""
_TAKE = """
UPDATE usage_hour SET told = true WHERE (project_id, resource, hour) IN (
    SELECT project_id, resource, hour FROM usage_hour WHERE NOT told ORDER BY hour, project_id, resource LIMIT $1
    FOR UPDATE)
RETURNING project_id, resource, hour, amount, records, revision"""
_MONTH = """
SELECT resource, sum(amount) AS amount FROM usage_hour
WHERE project_id = $1 AND hour >= ($2 || '-01')::timestamptz AND hour < ($2 || '-01')::timestamptz + interval '1 month'
GROUP BY resource ORDER BY resource"""
_PUT_MONTH = """
INSERT INTO usage_month AS m (project_id, month, revision, amounts) VALUES ($1, $2, 0, $3)
ON CONFLICT (project_id, month) DO UPDATE SET revision = m.revision + 1, amounts = excluded.amounts
RETURNING revision"""


async def put_charges(tx: Transaction, rows: Sequence[tuple[bytes, HourKey, int, int]]) -> None:
    """Put charges (identity, where it counts, revision, amount), each identity once; an older revision does nothing."""
    if rows:
        columns = [
            (identity, key.project_id, key.resource, key.hour, rev, amount) for identity, key, rev, amount in rows
        ]
        await tx.execute(_LOCK, [identity for identity, *_ in rows])
        await tx.execute(_PUT, *(list(column) for column in zip(*columns, strict=True)))


async def take_untold(tx: Transaction, limit: int) -> list[tuple[HourKey, int, int, int]]:
    """Sums that changed since they were told (where, amount, records, revision); they count as told now."""
    rows = await tx.fetch(_TAKE, limit)
    return sorted(
        (
            (HourKey(r["project_id"], r["resource"], r["hour"]), int(r["amount"]), r["records"], r["revision"])
            for r in rows
        ),
        key=lambda row: (row[0].hour, row[0].project_id, row[0].resource),
    )


async def sum_month(tx: Transaction, project: str, month: str) -> tuple[dict[str, int], int]:
    """A project's sums of a month by resource, and the revision they are told with."""
    amounts = {row["resource"]: int(row["amount"]) for row in await tx.fetch(_MONTH, project, month)}
    return amounts, int(await tx.fetchval(_PUT_MONTH, project, month, amounts))
