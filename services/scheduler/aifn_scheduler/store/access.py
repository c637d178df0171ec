"""Remembers calls, applications and awards."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aifn_common.database import Row, Transaction
from aifn_common.errors import NotFound

from aifn_scheduler.domain.access import Application, Ask, Call, Finding, Organisation

_CALL_COLUMNS = """call_id, mode, policy_version, pool, deciding_authority, technical_check, opens_at, closes_at,
       partitions, single_machine, source, inference_cap_pct"""
_ADD_CALL = f"""
INSERT INTO call ({_CALL_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (call_id) DO NOTHING"""
_UNPUBLISHED = f"""
UPDATE call SET published_at = $1 WHERE published_at IS NULL RETURNING {_CALL_COLUMNS}"""
_CALL = f"SELECT {_CALL_COLUMNS} FROM call WHERE call_id = $1"
_CALLS = f"SELECT {_CALL_COLUMNS} FROM call WHERE call_id > $1 ORDER BY call_id LIMIT $2"

_COLUMNS = """application_id, place, call_id, title, organisation, asks, months, statements, contact, submitted_by,
       submitted_at, decided_at, eligible, findings, award_id, project_id, awarded_at, awarded_by, award_reason"""
_ADD = """
INSERT INTO application (application_id, call_id, title, organisation, asks, months, statements, contact, submitted_by,
                         submitted_at, decided_at, eligible, findings)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, $11, $12)"""
_BEFORE = """
(SELECT count(*) FROM application earlier
 WHERE earlier.call_id = application.call_id AND earlier.eligible AND earlier.award_id IS NULL
   AND earlier.place < application.place)"""
_SELECT = f"SELECT {_COLUMNS}, {_BEFORE} AS before FROM application"
_LIST = f"""
{_SELECT}
WHERE place > $1 AND ($2 OR call_id = ANY($3::text[]) OR submitted_by = $4) AND ($5::text IS NULL OR call_id = $5)
  AND ($6::text IS NULL OR $6 = CASE WHEN award_id IS NOT NULL THEN 'awarded' WHEN eligible THEN 'eligible'
                                     ELSE 'refused' END)
ORDER BY place LIMIT $7"""
_AWARD = """
UPDATE application SET award_id = $2, project_id = $3, awarded_at = $4, awarded_by = $5, award_reason = $6
WHERE application_id = $1"""


@dataclass(frozen=True, slots=True)
class Award:
    """That an application was granted: to which project, when, by whom and why."""

    award_id: str
    project_id: str
    awarded_at: datetime
    awarded_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Filed:
    """An application with its decision. `before`: eligible ones of the same call that came earlier and still wait."""

    application_id: str
    place: int
    before: int
    call_id: str
    application: Application
    contact: str | None
    submitted_by: str
    submitted_at: datetime
    decided_at: datetime
    eligible: bool
    findings: tuple[Finding, ...]
    award: Award | None

    @property
    def state(self) -> str:
        """refused, eligible (waits for the award) or awarded."""
        if self.award is not None:
            return "awarded"
        return "eligible" if self.eligible else "refused"


async def add_call(tx: Transaction, call: Call) -> None:
    """Keep a call unless one of that name is there: what has been published is not changed."""
    await tx.execute(
        _ADD_CALL,
        call.call_id,
        call.mode,
        call.policy_version,
        call.pool,
        call.deciding_authority,
        call.technical_check,
        call.opens_at,
        call.closes_at,
        None if call.partitions is None else list(call.partitions),
        call.single_machine,
        call.source,
        call.inference_cap_pct,
    )


async def publish_calls(tx: Transaction, now: datetime) -> Sequence[Call]:
    """Note that all calls are published; returns those that were not, by name."""
    return sorted((_call(row) for row in await tx.fetch(_UNPUBLISHED, now)), key=lambda call: call.call_id)


async def get_call(tx: Transaction, call_id: str) -> Call:
    """One call. Raises NotFound."""
    row = await tx.fetchrow(_CALL, call_id)
    if row is None:
        raise NotFound(f"no call {call_id}")
    return _call(row)


async def list_calls(tx: Transaction, after: str, limit: int) -> Sequence[Call]:
    """Calls by name, those after `after`."""
    return [_call(row) for row in await tx.fetch(_CALLS, after, limit)]


async def add_application(
    tx: Transaction,
    application_id: str,
    call_id: str,
    application: Application,
    *,
    contact: str | None,
    submitted_by: str,
    now: datetime,
    eligible: bool,
    findings: Sequence[Finding],
) -> None:
    """Keep an application with its decision; its place in the queue is given here."""
    organisation = application.organisation
    await tx.execute(
        _ADD,
        application_id,
        call_id,
        application.title,
        {name: getattr(organisation, name) for name in organisation.__slots__},
        [{"partition_id": ask.partition_id, "gpu_hours": ask.gpu_hours} for ask in application.asks],
        application.months,
        dict(application.statements),
        contact,
        submitted_by,
        now,
        eligible,
        [{name: getattr(finding, name) for name in finding.__slots__} for finding in findings],
    )


async def get_application(tx: Transaction, application_id: str, *, lock: bool = False) -> Filed:
    """One application; `lock` holds the row until the end. Raises NotFound."""
    row = await tx.fetchrow(_SELECT + " WHERE application_id = $1" + (" FOR UPDATE" if lock else ""), application_id)
    if row is None:
        raise NotFound(f"no application {application_id}")
    return _filed(row)


async def list_applications(
    tx: Transaction,
    *,
    everything: bool,
    calls: Collection[str],
    submitted_by: str | None,
    call_id: str | None,
    state: str | None,
    after: int,
    limit: int,
) -> Sequence[Filed]:
    """Applications in the order of submission.

    The reader may see everything, or what was filed under one of `calls` or by `submitted_by` (None: nobody). Of that,
    `call_id` and `state` choose; None does not filter.
    """
    rows = await tx.fetch(_LIST, after, everything, list(calls), submitted_by, call_id, state, limit)
    return [_filed(row) for row in rows]


async def next_project_number(tx: Transaction) -> int:
    """A number no project has had; a transaction that fails leaves a gap."""
    number: int = await tx.fetchval("SELECT nextval('project_number')")
    return number


async def set_award(tx: Transaction, application_id: str, award: Award) -> None:
    """Note that an application was granted."""
    await tx.execute(
        _AWARD, application_id, award.award_id, award.project_id, award.awarded_at, award.awarded_by, award.reason
    )


def _call(row: Row) -> Call:
    return Call(**{**row, "partitions": None if row["partitions"] is None else tuple(row["partitions"])})


def _filed(row: Row) -> Filed:
    award = None
    if row["award_id"] is not None:
        award = Award(row["award_id"], row["project_id"], row["awarded_at"], row["awarded_by"], row["award_reason"])
    return Filed(
        application_id=row["application_id"],
        place=row["place"],
        before=row["before"],
        call_id=row["call_id"],
        application=_application(row),
        contact=row["contact"],
        submitted_by=row["submitted_by"],
        submitted_at=row["submitted_at"],
        decided_at=row["decided_at"],
        eligible=row["eligible"],
        findings=tuple(Finding(**finding) for finding in row["findings"]),
        award=award,
    )


def _application(row: Row) -> Application:
    statements: Mapping[str, Any] = row["statements"]
    return Application(
        title=row["title"],
        organisation=Organisation(**row["organisation"]),
        asks=tuple(Ask(**ask) for ask in row["asks"]),
        months=row["months"],
        statements=statements,
    )
