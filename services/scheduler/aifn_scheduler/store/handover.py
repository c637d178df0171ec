"""Remembers agreements, what other members have free, and hand-overs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from aifn_common.database import Row, Transaction
from aifn_common.errors import NotFound
from aifn_events.access import AwardGranted
from aifn_events.registry import CapacityReported

from aifn_scheduler.domain.exchange import Agreement, Scope
from aifn_scheduler.domain.handover import FINAL, Handover, Side

_AGREEMENT = (
    "agreement_id, home, receiver, home_resource, resource, numerator, denominator, guest_project, pool_id, starts_at, "
    "ends_at, agreed_by"
)
_PUT_AGREEMENT = f"""
INSERT INTO exchange_agreement ({_AGREEMENT}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (agreement_id) DO NOTHING"""
_FIND_AGREEMENT = f"SELECT {_AGREEMENT} FROM exchange_agreement WHERE agreement_id = $1"
_LIST_AGREEMENTS = f"""
SELECT {_AGREEMENT} FROM exchange_agreement WHERE agreement_id > $1 ORDER BY agreement_id LIMIT $2"""
_IN_FORCE = f"""
SELECT {_AGREEMENT} FROM exchange_agreement WHERE home = $1 AND starts_at <= $2 AND $2 < ends_at
ORDER BY agreement_id"""
_PUT_SCOPE = """
INSERT INTO award_scope (award_id, project_id, factory_id, machine_id, partition_id, resource, starts_at, ends_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (award_id, partition_id) DO NOTHING"""
_SCOPES = """
SELECT award_id, project_id, factory_id AS receiver, machine_id, partition_id, resource, starts_at, ends_at
FROM award_scope WHERE project_id = ANY($1::text[]) AND starts_at <= $2 AND $2 < ends_at
ORDER BY award_id, partition_id"""
_ANY_SCOPE = "SELECT EXISTS (SELECT FROM award_scope WHERE starts_at <= $1 AND $1 < ends_at)"
_PUT_CAPACITY = """
INSERT INTO peer_capacity (partition_id, origin, observed_at, nodes_idle) VALUES ($1, $2, $3, $4)
ON CONFLICT (partition_id) DO UPDATE SET
    origin = EXCLUDED.origin, observed_at = EXCLUDED.observed_at, nodes_idle = EXCLUDED.nodes_idle
WHERE peer_capacity.observed_at < EXCLUDED.observed_at"""
# What was asked for since the report is not in it: those nodes are spoken for.
_IDLE = """
SELECT p.partition_id, p.nodes_idle - coalesce(sum(h.nodes), 0)::int AS nodes
FROM peer_capacity AS p
LEFT JOIN handover AS h ON h.partition_id = p.partition_id AND h.side = 'home' AND h.ended_at IS NULL
WHERE p.observed_at >= $1 GROUP BY p.partition_id, p.nodes_idle"""
_COLUMNS = """handover_id, side, home, receiver, agreement_id, job_id, allocation_id, machine_id, partition_id,
    resource, nodes, slices, held, answer_by, end_by, asked, home_steps, receiver_steps, reason, used, award_id"""
_ADD = f"""
INSERT INTO handover ({_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)"""
_SAVE = """
UPDATE handover SET allocation_id = $2, asked = $3, home_steps = $4, receiver_steps = $5, reason = $6, used = $7,
    ended_at = CASE WHEN $8 THEN coalesce(ended_at, $9) END
WHERE handover_id = $1"""
_GET = f"SELECT {_COLUMNS} FROM handover WHERE handover_id = $1"
_OF_JOB = f"""
SELECT {_COLUMNS} FROM handover WHERE job_id = $1 AND ended_at IS NULL ORDER BY handover_id DESC LIMIT 1 FOR UPDATE"""
_TRIED = "SELECT job_id, receiver FROM handover WHERE side = 'home' AND job_id = ANY($1::text[])"
_OVERDUE = """
SELECT handover_id FROM handover
WHERE ended_at IS NULL AND asked AND (CASE side WHEN 'home' THEN answer_by ELSE end_by END) < $1
    AND NOT (side = 'home' AND 'confirmed' = ANY(home_steps))
ORDER BY answer_by LIMIT $2"""
_LIST = f"SELECT {_COLUMNS} FROM handover WHERE handover_id > $1 ORDER BY handover_id LIMIT $2"
_REQUEUE = """
UPDATE job SET state = 'queued', revision = revision + 1, machine_id = NULL, partition_id = NULL, resource = NULL,
    nodes = NULL, slices = NULL, amount = NULL, placed_at = NULL, held_at = NULL, dispatched_at = NULL,
    planned_start = NULL, planned_on = NULL, explanation = NULL
WHERE job_id = $1 AND state IN ('placed', 'dispatched')"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A hand-over as one factory keeps it: whose job, what it takes, how far it is. `asked`: home has told of it.

    It is under an agreement, or within the scope of its project's own award, and then nothing is exchanged.
    """

    side: Side
    home: str
    receiver: str
    agreement_id: str | None
    award_id: str | None
    job_id: str
    allocation_id: str | None
    machine_id: str
    partition_id: str
    resource: str
    nodes: int
    slices: int
    asked: bool
    handover: Handover

    @property
    def id(self) -> str:
        """Its name, the same on both sides."""
        return self.handover.id

    def at(self, handover: Handover) -> "Kept":
        """The same one, further on."""
        return replace(self, handover=handover)


async def put_agreement(tx: Transaction, one: Agreement) -> bool:
    """Keep an agreement; False if one of that name is there."""
    done = await tx.execute(
        _PUT_AGREEMENT, one.agreement_id, one.home, one.receiver, one.home_resource, one.resource, one.numerator,
        one.denominator, one.guest_project, one.pool_id, one.starts_at, one.ends_at, one.agreed_by,
    )  # fmt: skip
    return done == "INSERT 0 1"


async def find_agreement(tx: Transaction, agreement_id: str) -> Agreement | None:
    """One agreement; None if it is not known."""
    row = await tx.fetchrow(_FIND_AGREEMENT, agreement_id)
    return None if row is None else Agreement(**row)


async def list_agreements(tx: Transaction, after: str, limit: int) -> list[Agreement]:
    """Agreements by name, those after `after`."""
    return [Agreement(**row) for row in await tx.fetch(_LIST_AGREEMENTS, after, limit)]


async def agreements_of(tx: Transaction, home: str, now: datetime) -> list[Agreement]:
    """Those in force under which `home` may send work away."""
    return [Agreement(**row) for row in await tx.fetch(_IN_FORCE, home, now)]


async def put_scopes(tx: Transaction, award: AwardGranted) -> None:
    """Keep what an award names at other factories."""
    await tx.executemany(
        _PUT_SCOPE,
        [
            (
                award.award_id, award.project_id, one.factory_id, one.machine_id, one.partition_id, one.resource,
                award.starts_at, award.ends_at,
            )
            for one in award.elsewhere
        ],
    )  # fmt: skip


async def scopes_of(tx: Transaction, project_ids: Iterable[str], now: datetime) -> list[Scope]:
    """Where else awards of these projects may be used now."""
    return [Scope(**row) for row in await tx.fetch(_SCOPES, sorted(set(project_ids)), now)]


async def any_scope(tx: Transaction, now: datetime) -> bool:
    """Whether any award is to be used at other factories too."""
    found: bool = await tx.fetchval(_ANY_SCOPE, now)
    return found


async def put_peer_capacity(tx: Transaction, origin: str, event: CapacityReported) -> None:
    """Keep what another member has free, unless something newer is known."""
    await tx.execute(_PUT_CAPACITY, event.partition_id, origin, event.observed_at, event.nodes_idle)


async def idle_elsewhere(tx: Transaction, since: datetime) -> dict[str, int]:
    """Nodes that others say are free, by partition, less what was asked of them; older reports tell nothing."""
    return {row["partition_id"]: row["nodes"] for row in await tx.fetch(_IDLE, since)}


async def add(tx: Transaction, one: Kept) -> None:
    """Keep a new hand-over."""
    h = one.handover
    await tx.execute(
        _ADD, h.id, one.side, one.home, one.receiver, one.agreement_id, one.job_id, one.allocation_id, one.machine_id,
        one.partition_id, one.resource, one.nodes, one.slices, h.held, h.answer_by, h.end_by, one.asked, list(h.home),
        list(h.receiver), h.reason, h.used, one.award_id,
    )  # fmt: skip


async def save(tx: Transaction, one: Kept, now: datetime) -> None:
    """Write what has changed since it was read with a lock."""
    h = one.handover
    await tx.execute(
        _SAVE, h.id, one.allocation_id, one.asked, list(h.home), list(h.receiver), h.reason, h.used,
        h.state in FINAL, now,
    )  # fmt: skip


async def find(tx: Transaction, handover_id: str) -> Kept | None:
    """One hand-over, locked; None if it is not known."""
    row = await tx.fetchrow(_GET + " FOR UPDATE", handover_id)
    return None if row is None else _kept(row)


async def get(tx: Transaction, handover_id: str) -> Kept:
    """One hand-over, locked. Raises NotFound."""
    found = await find(tx, handover_id)
    if found is None:
        raise NotFound(f"no hand-over {handover_id}")
    return found


async def of_job(tx: Transaction, job_id: str) -> Kept | None:
    """The hand-over of a job that has not ended, locked; None for a job that stays here."""
    row = await tx.fetchrow(_OF_JOB, job_id)
    return None if row is None else _kept(row)


async def tried(tx: Transaction, job_ids: Sequence[str]) -> set[tuple[str, str]]:
    """Whom was asked for which job before."""
    return {(row["job_id"], row["receiver"]) for row in await tx.fetch(_TRIED, list(job_ids))}


async def overdue(tx: Transaction, now: datetime, limit: int) -> list[str]:
    """Those on which this side must decide now: unanswered at home, not ended at the receiver."""
    return [row["handover_id"] for row in await tx.fetch(_OVERDUE, now, limit)]


async def list_handovers(tx: Transaction, after: str, limit: int) -> list[Kept]:
    """Hand-overs by name, those after `after`."""
    return [_kept(row) for row in await tx.fetch(_LIST, after, limit)]


async def requeue(tx: Transaction, job_id: str) -> None:
    """A job that was to go away waits at home again, at its old place."""
    await tx.execute(_REQUEUE, job_id)


def _kept(row: Row) -> Kept:
    handover = Handover(
        id=row["handover_id"],
        held=row["held"],
        answer_by=row["answer_by"],
        end_by=row["end_by"],
        home=tuple(row["home_steps"]),
        receiver=tuple(row["receiver_steps"]),
        reason=row["reason"],
        used=row["used"],
    )
    names = (
        "side", "home", "receiver", "agreement_id", "award_id", "job_id", "allocation_id", "machine_id", "partition_id",
        "resource", "nodes", "slices", "asked",
    )  # fmt: skip
    return Kept(**{name: row[name] for name in names}, handover=handover)
