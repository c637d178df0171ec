"""What is large (grants, top-ups, corrections, fundings of pools): one person asks, another decides."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Refusal
from aifn_events.vocabulary import FactoryId, ProjectId, ResourceId, Subject

from aifn_accounting.actions import allocations, corrections, grants, pools
from aifn_accounting.actions.trail import record
from aifn_accounting.domain.approvals import needs_second_person
from aifn_accounting.domain.ledger import Pool
from aifn_accounting.store import allocations as allocation_store
from aifn_accounting.store import decisions as store
from aifn_accounting.store import ledger
from aifn_accounting.store import people as people_store

What = Literal["grant", "top_up", "correction", "fund_pool"]


class AlreadyDecided(Refusal):
    """Somebody has decided on this before."""

    code = "already_decided"


class SamePerson(Refusal):
    """Whoever asked cannot also approve."""

    code = "same_person"
    status = 403

    def __init__(self, subject: Subject) -> None:
        super().__init__(f"{subject} asked for this: another person must decide")


async def grant_needs_approval(
    tx: Transaction, project_id: ProjectId, resource: ResourceId, amount: int, limits: Mapping[str, int]
) -> bool:
    """Whether a grant by a person needs a second one: what the project has by hand already counts, so that a large
    grant cannot be made of small ones.
    """
    known = await people_store.find_resource(tx, resource)
    if known is None:
        return False
    had = await allocation_store.granted_by_hand(tx, project_id, resource)
    return needs_second_person(had + amount, unit=known.unit, units_per_node=known.units_per_node, limits=limits)


async def top_up_needs_approval(
    tx: Transaction, terms: allocation_store.Terms, amount: int, limits: Mapping[str, int]
) -> bool:
    """Whether a top-up needs a second person, all growth counted."""
    known = await people_store.find_resource(tx, terms.resource)
    if known is None:
        return False
    grown = max(terms.given - terms.first_granted, 0) + amount
    return needs_second_person(grown, unit=known.unit, units_per_node=known.units_per_node, limits=limits)


def funding_needs_approval(
    known: people_store.Known | None, funded: int, amount: int, limits: Mapping[str, int]
) -> bool:
    """Whether a funding needs a second person: whatever brings a pool above the limit, all that came in counted."""
    if known is None:
        return False
    return needs_second_person(funded + amount, unit=known.unit, units_per_node=known.units_per_node, limits=limits)


async def ask(
    tx: Transaction,
    *,
    what: What,
    factory_id: FactoryId,
    permission: str,
    words: Mapping[str, Any],
    amount: int,
    by: Subject,
    project_id: ProjectId | None = None,
    allocation_id: str | None = None,
    pool_id: str | None = None,
) -> store.Approval:
    """Keep what somebody asks for until another person has decided; nothing is taken out of a pool yet."""
    asked = await store.add_approval(
        tx,
        clock.short_id("appr"),
        what=what,
        project_id=project_id,
        factory_id=factory_id,
        permission=permission,
        words=words,
        amount=amount,
        by=by,
        at=clock.now(),
        allocation_id=allocation_id,
        pool_id=pool_id,
    )
    await _record(tx, asked, "ask_approval", by, str(words.get("reason", "")), after=dict(words))
    return asked


async def decide(
    tx: Transaction, approval: store.Approval, *, approve: bool, by: Subject, reason: str
) -> store.Approval:
    """Carry out or turn down what was asked for; the row must be locked.

    A refusal while it is carried out (an empty pool) leaves it waiting. Raises: AlreadyDecided, SamePerson, and what
    `grants.grant`, `allocations.top_up`, `corrections.correct` and `pools.fund_pool` raise.
    """
    if approval.state != "waiting":
        raise AlreadyDecided(f"approval {approval.id} was {approval.state} by {approval.decided_by}")
    if approval.asked_by == by:
        raise SamePerson(by)
    allocation_id = approval.allocation_id
    if approve:
        allocation_id = await _carry_out(tx, approval, by)
    state = "approved" if approve else "rejected"
    decided = await store.decide(
        tx, approval.id, state, by=by, reason=reason, at=clock.now(), allocation_id=allocation_id
    )
    await _record(tx, decided, "decide_approval", by, reason, before={"state": "waiting"}, after={"state": state})
    return decided


async def _carry_out(tx: Transaction, approval: store.Approval, by: Subject) -> str | None:
    words = approval.words
    reason = f"{words['reason']} (approved by {by})"
    if approval.what == "top_up" and approval.allocation_id is not None:
        await allocations.top_up(tx, approval.allocation_id, approval.amount, by=approval.asked_by, reason=reason)
        return approval.allocation_id
    if approval.what == "correction" and approval.allocation_id is not None:
        await corrections.correct(
            tx,
            approval.allocation_id,
            words["transfer_id"],
            approval.amount,
            by=approval.asked_by,
            reason=words["reason"],
            approved_by=by,
        )
        return approval.allocation_id
    if approval.what == "fund_pool" and approval.pool_id is not None:
        await pools.fund_pool(
            tx, approval.pool_id, approval.amount, source=words["source"], by=approval.asked_by, reason=reason
        )
        return None
    if approval.project_id is None:
        raise RuntimeError(f"approval {approval.id} of a {approval.what} is for no project")
    share: Pool = "national" if words["pool"] == "national" else "union"
    allocation = await grants.grant(
        tx,
        await ledger.get_project(tx, approval.project_id),
        words["resource"],
        amount=approval.amount,
        pool=share,
        starts_at=datetime.fromisoformat(words["starts_at"]),
        ends_at=datetime.fromisoformat(words["ends_at"]),
        unit=words["unit"],
        reason=reason,
        by=approval.asked_by,
        terms=grants.Terms(
            mode=words.get("mode"),
            policy_version=words.get("policy_version"),
            pool_id=words.get("pool_id"),
            earmark=words.get("earmark"),
            use_or_lose=words.get("use_or_lose"),
            inference_cap_pct=words.get("inference_cap_pct"),
        ),
    )
    return allocation.id


async def _record(
    tx: Transaction, one: store.Approval, action: str, by: str, reason: str, *, before: object = None, after: object
) -> None:
    await record(
        tx, actor=by, action=action, thing="approval", thing_id=one.id, project_id=one.project_id,
        factory_id=one.factory_id, reason=reason, before=before, after=after,
    )  # fmt: skip
