"""Two schedulers on real databases, and between them what their gates would carry: lost, late, twice, or forged."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import asyncpg
import pytest
from aifn_common import membership
from aifn_common.database import Database, transaction
from aifn_common.errors import Invalid
from aifn_events.access import AwardGranted
from aifn_events.base import Event
from aifn_events.federation import AwardFromPeer, CapacityFromPeer, HandoverFromPeer, PeerFact
from aifn_events.handover import HandoverAnswered, HandoverAsked, HandoverSettled
from aifn_events.placement import BudgetRefused, JobCancelRequested, JobClosed, JobDispatched, JobPlaced
from aifn_scheduler.actions import access, handover, jobs, machines
from aifn_scheduler.domain.admission import Size
from aifn_scheduler.domain.exchange import Agreement
from aifn_scheduler.domain.lifecycle import Job
from aifn_scheduler.settings import SchedulerSettings
from aifn_scheduler.store import handover as store
from aifn_scheduler.store import placement as jobs_store
from aifn_scheduler.store.handover import Kept

from tests.federation.checker import HANDOVERS, one_end
from tests.scheduler.make import (
    AHEAD,
    BOOSTER,
    HOUR,
    allocation,
    announced,
    capacity,
    ended,
    held,
    machine,
    project,
    started,
    submit,
    tick,
    wish,
)
from tests.support.backends import Backends
from tests.support.settings import settings

P = TypeVar("P", bound=PeerFact)
HOME, RECEIVER = "lumi-aif", "it4lia-aif"
NOW = datetime.now(UTC)
AGREED = Agreement(
    agreement_id="lumi-it4lia",
    home=HOME,
    receiver=RECEIVER,
    home_resource="lumi/lumi-g/gpu-time",
    resource=BOOSTER.resource,
    numerator=3,
    denominator=2,
    guest_project="guests",
    pool_id="union-2026",
    starts_at=NOW - timedelta(days=1),
    ends_at=NOW + timedelta(days=365),
    agreed_by="mari",
)


def from_peer(origin: str, event: Event, kind: type[P]) -> P:
    """A fact as a gate announces it once it has verified it."""
    return kind.example(
        origin=origin, fact=event.type_name(), fact_id=event.id, fact_source=f"urn:aifn:{origin}:scheduler",
        fact_time=event.time, data=event.model_dump_json(),
    )  # fmt: skip


@dataclass
class Side:
    """One factory's scheduler."""

    factory: str
    db: Database
    limits: SchedulerSettings

    async def hear(self, origin: str, *events: Event) -> None:
        """What the other side has said, as it arrives."""
        for event in events:
            async with transaction(self.db) as tx:
                await handover.hear(tx, from_peer(origin, event, HandoverFromPeer), self.factory)

    async def said(self, kind: type[HandoverAsked | HandoverAnswered]) -> list[Event]:
        """Everything it has told the other side."""
        return list(await announced(self.db, kind))

    async def budget_held(self) -> None:
        """Accounting says yes to every placement, once more to those it had answered."""
        for placed in await announced(self.db, JobPlaced):
            async with transaction(self.db) as tx:
                await jobs.dispatch_job(tx, held(placed))

    async def job(self, job_id: str) -> Job:
        async with transaction(self.db) as tx:
            return await jobs_store.get_job(tx, job_id)

    async def kept(self) -> Kept:
        """The newest hand-over."""
        async with transaction(self.db) as tx:
            return (await store.list_handovers(tx, "", 10))[-1]

    async def offer(self) -> int:
        """Plan, then offer what waits."""
        await tick(self.db, self.limits)
        async with transaction(self.db) as tx:
            return await handover.offer_waiting(tx, self.limits)


@pytest.fixture
async def home(backends: Backends) -> AsyncIterator[Side]:
    """LUMI, with one node that is taken, an agreement, and news of four free nodes at CINECA."""
    async with backends.database("aifn_scheduler") as db:
        side = Side(HOME, db, settings(SchedulerSettings, factory=HOME))
        async with transaction(db) as tx:
            for one in ("lumi", "leonardo"):
                await machines.remember_machine(tx, machine(one))
            await machines.remember_capacity(tx, capacity("lumi-g", 1), may_be_ahead=AHEAD)
            await membership.remember_project(tx, project())
            await machines.remember_allocation(tx, allocation())
            await handover.agree(tx, AGREED, HOME)
            news = capacity("leonardo-booster", 10).model_copy(update={"nodes_idle": 4})
            await handover.remember_peer(tx, from_peer(RECEIVER, news, CapacityFromPeer))
        await submit(db, name="first", walltime_seconds=20 * HOUR)
        await tick(db, side.limits)
        yield side


@pytest.fixture
async def receiver(backends: Backends) -> AsyncIterator[Side]:
    """CINECA, with ten nodes, the same agreement, and a project whose allocation is what guests may use."""
    async with backends.database("aifn_scheduler") as db:
        side = Side(RECEIVER, db, settings(SchedulerSettings, factory=RECEIVER))
        async with transaction(db) as tx:
            await machines.remember_machine(tx, machine("leonardo"))
            await machines.remember_capacity(tx, capacity("leonardo-booster", 10), may_be_ahead=AHEAD)
            await membership.remember_project(tx, project("guests"))
            await machines.remember_allocation(tx, allocation("guests", "leonardo-booster"))
            await handover.agree(tx, AGREED, RECEIVER)
        yield side


async def away(home: Side, **values: object) -> Job:
    """A job of home whose budget is held and for which another factory was asked."""
    job = await submit(home.db, **{"name": "second", "size": Size("devices", 4)} | values)
    assert await home.offer() == 1
    await home.budget_held()
    return job


async def accepted(home: Side, receiver: Side) -> tuple[Job, str]:
    """The other factory has planned it, and its budget is held there; home has not heard of that yet."""
    job = await away(home)
    await receiver.hear(HOME, *await home.said(HandoverAsked))
    await tick(receiver.db, receiver.limits)
    await receiver.budget_held()
    return job, (await receiver.kept()).id


def steps(said: Sequence[Event]) -> list[str]:
    return [str(one.model_dump()["step"]) for one in said]


async def test_a_job_that_would_wait_at_home_runs_elsewhere_and_both_sides_settle_the_same(
    home: Side, receiver: Side
) -> None:
    job, guest = await accepted(home, receiver)
    asked = (await announced(home.db, JobPlaced))[-1]
    # Four accelerators are a node of 32 slices there, and cost half as much again here.
    assert (asked.resource, asked.amount) == ("lumi/lumi-g/gpu-time", 32 * HOUR * 3 // 2)
    assert await announced(receiver.db, JobDispatched) == [], "nothing starts before home has confirmed"

    await home.hear(RECEIVER, *await receiver.said(HandoverAnswered))
    await receiver.hear(HOME, *await home.said(HandoverAsked))
    (sent,) = await announced(receiver.db, JobDispatched)
    assert (sent.job_id, sent.project_id, sent.slices, sent.submitted_by) == (guest, "guests", 32, f"handover@{HOME}")

    there = {"machine_id": "leonardo", "partition_id": "leonardo-booster"}
    began = NOW + timedelta(minutes=1)
    async with transaction(receiver.db) as tx:
        await jobs.start_job(tx, started(guest, started_at=began, **there))
        await jobs.end_job(tx, ended(guest, ended_at=began + timedelta(seconds=600), **there))
    for _ in range(2):
        await home.hear(RECEIVER, *await receiver.said(HandoverAnswered))
        await receiver.hear(HOME, *await home.said(HandoverAsked))

    assert steps(await home.said(HandoverAsked)) == ["requested", "confirmed"]
    assert steps(await receiver.said(HandoverAnswered)) == ["accepted", "started", "finished"]
    (ours,), (theirs,) = await announced(home.db, HandoverSettled), await announced(receiver.db, HandoverSettled)
    assert (ours.amount, theirs.amount, ours.side, theirs.side) == (32 * 600, 32 * 600, "home", "receiver")
    assert (ours.job_id, ours.allocation_id is not None, theirs.pool_id) == (job.job_id, True, "union-2026")
    closed = [one for one in await announced(home.db, JobClosed) if one.job_id == job.job_id]
    assert [(one.outcome, one.segments) for one in closed] == [("completed", 0)]
    assert [(await side.kept()).handover.state for side in (home, receiver)] == ["finished", "finished"]


MACHINE_OF = {"lumi-g": "lumi", "leonardo-booster": "leonardo"}


def _award(host: str, partition: str, other: str, elsewhere: str) -> AwardGranted:
    """The part of one factory in an award that names machines of two."""

    def place(name: str) -> dict[str, str]:
        found = {"machine_id": MACHINE_OF[name], "partition_id": name}
        return found | {"resource": f"{MACHINE_OF[name]}/{name}/gpu-time"}

    return AwardGranted.example(
        award_id="award-two",
        project_id="p1",
        factory_id=host,
        mode="aif_large_scale",
        deciding_authority="ju",
        lines=[place(partition) | {"amount": 10**9}],
        elsewhere=[place(elsewhere) | {"factory_id": other}],
        starts_at=NOW - timedelta(days=1),
        ends_at=NOW + timedelta(days=90),
    )


async def _both_know_the_award(home: Side, receiver: Side) -> None:
    for side, part in (
        (home, _award(HOME, "lumi-g", RECEIVER, "leonardo-booster")),
        (receiver, _award(RECEIVER, "leonardo-booster", HOME, "lumi-g")),
    ):
        async with transaction(side.db) as tx:
            for one, owner in (("lumi", HOME), ("leonardo", RECEIVER)):
                await machines.remember_machine(tx, machine(one, revision=1, factory_ids=[owner]))
            await access.hear_award(tx, from_peer("ju", part, AwardFromPeer), side.limits)
    async with transaction(receiver.db) as tx:
        await membership.remember_project(tx, project())
        await machines.remember_allocation(tx, allocation("p1", "leonardo-booster"))


async def test_a_job_goes_to_another_factory_that_its_own_award_names_and_is_paid_with_the_hours_there(
    home: Side, receiver: Side
) -> None:
    await _both_know_the_award(home, receiver)
    job = await submit(home.db, name="second", partition_id=None, size=Size("devices", 4))
    placed_before = len(await announced(home.db, JobPlaced))
    assert await home.offer() == 1
    assert len(await announced(home.db, JobPlaced)) == placed_before, "no hours of home are held"
    (asked,) = await announced(home.db, HandoverAsked)
    assert (asked.agreement_id, asked.project_id, asked.resource) == ("award-two", "p1", BOOSTER.resource)

    await receiver.hear(HOME, asked)
    await tick(receiver.db, receiver.limits)
    (there,) = await announced(receiver.db, JobPlaced)
    assert (there.project_id, there.resource, there.amount) == ("p1", BOOSTER.resource, 32 * HOUR)
    await receiver.budget_held()
    await home.hear(RECEIVER, *await receiver.said(HandoverAnswered))
    await receiver.hear(HOME, *await home.said(HandoverAsked))
    (sent,) = await announced(receiver.db, JobDispatched)
    where = {"machine_id": "leonardo", "partition_id": "leonardo-booster"}
    async with transaction(receiver.db) as tx:
        await jobs.start_job(tx, started(sent.job_id, started_at=NOW, **where))
        await jobs.end_job(tx, ended(sent.job_id, ended_at=NOW + timedelta(seconds=600), **where))
    await home.hear(RECEIVER, *await receiver.said(HandoverAnswered))

    assert [(await side.kept()).handover.state for side in (home, receiver)] == ["finished", "finished"]
    closed = [one.outcome for one in await announced(home.db, JobClosed) if one.job_id == job.job_id]
    assert closed == ["completed"]
    for side in (home, receiver):
        assert await announced(side.db, HandoverSettled) == [], "nothing is exchanged: the award has hours at both"


async def test_a_job_within_its_award_stays_if_it_names_a_partition_and_comes_back_if_it_is_declined(
    home: Side, receiver: Side
) -> None:
    await _both_know_the_award(home, receiver)
    await home.db.execute("DELETE FROM exchange_agreement")
    await submit(home.db, name="named", size=Size("devices", 4))
    assert await home.offer() == 0
    job = await submit(home.db, name="anywhere", partition_id=None, size=Size("devices", 4))
    assert await home.offer() == 1
    await receiver.db.execute("DELETE FROM allocation")
    await receiver.hear(HOME, *await home.said(HandoverAsked))
    assert steps(await receiver.said(HandoverAnswered)) == ["declined"]
    await home.hear(RECEIVER, *await receiver.said(HandoverAnswered))
    assert (await home.job(job.job_id)).life.state == "queued"
    assert await home.offer() == 0, "each factory is asked once for a job"


async def test_nobody_gets_into_a_project_whose_award_does_not_name_them(home: Side, receiver: Side) -> None:
    await _both_know_the_award(home, receiver)
    await submit(home.db, name="second", partition_id=None, size=Size("devices", 4))
    await home.offer()
    (asked,) = await announced(home.db, HandoverAsked)
    forged = [
        (HOME, asked.model_copy(update={"project_id": "guests", "handover_id": "h-1"})),
        (HOME, asked.model_copy(update={"agreement_id": "award-one", "handover_id": "h-2"})),
        ("bsc-aif", asked.model_copy(update={"home": "bsc-aif", "handover_id": "h-3"})),
    ]
    for origin, one in forged:
        await receiver.hear(origin, one)
    said = await announced(receiver.db, HandoverAnswered)
    assert [(one.step, "names" in one.because) for one in said] == [("declined", True)] * 3
    assert await announced(receiver.db, JobPlaced) == []


async def test_a_job_that_nobody_takes_waits_at_home_again_and_is_not_asked_for_twice(
    home: Side, receiver: Side
) -> None:
    job = await away(home)
    async with transaction(receiver.db) as tx:
        await tx.execute("DELETE FROM allocation")
    await receiver.hear(HOME, *await home.said(HandoverAsked))
    (declined,) = await receiver.said(HandoverAnswered)
    assert steps([declined]) == ["declined"]
    await home.hear(RECEIVER, declined, declined)
    waits = await home.job(job.job_id)
    assert (waits.life.state, waits.life.revision, waits.resource) == ("queued", 1, None)
    assert await home.offer() == 0
    assert (await home.kept()).handover.state == "rejected"


async def test_without_an_answer_in_time_home_takes_it_back_and_the_guest_never_runs(
    home: Side, receiver: Side
) -> None:
    job, guest = await accepted(home, receiver)
    async with transaction(home.db) as tx:
        await tx.execute("UPDATE handover SET answer_by = now() - interval '1 second'")
        assert await handover.sweep(tx) == 1
    await home.hear(RECEIVER, *await receiver.said(HandoverAnswered))
    await receiver.hear(HOME, *await home.said(HandoverAsked))
    assert (await home.job(job.job_id)).life.state == "queued"
    assert (await receiver.job(guest)).life.outcome == "cancelled"
    assert await announced(receiver.db, JobDispatched) == []
    assert [(await side.kept()).handover.state for side in (home, receiver)] == ["expired", "expired"]


async def test_a_cancel_and_an_acceptance_that_cross_have_one_end_on_both_sides(home: Side, receiver: Side) -> None:
    job, guest = await accepted(home, receiver)
    async with transaction(home.db) as tx:
        await handover.cancel(tx, job.job_id, by="mari")
    await home.hear(RECEIVER, *await receiver.said(HandoverAnswered))
    await receiver.hear(HOME, *await home.said(HandoverAsked))
    assert (await home.job(job.job_id)).life.outcome == "cancelled"
    assert (await receiver.job(guest)).life.outcome == "cancelled"
    assert [(await side.kept()).handover.state for side in (home, receiver)] == ["cancelled", "cancelled"]


async def test_a_cancel_after_the_confirmation_is_carried_out_by_the_receiver(home: Side, receiver: Side) -> None:
    job, guest = await accepted(home, receiver)
    await home.hear(RECEIVER, *await receiver.said(HandoverAnswered))
    async with transaction(home.db) as tx:
        await handover.cancel(tx, job.job_id, by="mari")
    await receiver.hear(HOME, *await home.said(HandoverAsked))
    (stop,) = await announced(receiver.db, JobCancelRequested)
    assert stop.job_id == guest
    async with transaction(receiver.db) as tx:
        await jobs.end_job(
            tx,
            ended(guest, outcome="cancelled", segments=0, machine_id="leonardo", partition_id="leonardo-booster"),
        )
    await home.hear(RECEIVER, *await receiver.said(HandoverAnswered))
    assert (await home.job(job.job_id)).life.outcome == "cancelled"
    assert await announced(home.db, HandoverSettled) == [], "what was not used is not settled"


async def test_a_guest_for_whom_there_is_no_budget_is_declined(home: Side, receiver: Side) -> None:
    await away(home)
    await receiver.hear(HOME, *await home.said(HandoverAsked))
    await tick(receiver.db, receiver.limits)
    (placed,) = await announced(receiver.db, JobPlaced)
    async with transaction(receiver.db) as tx:
        refusal = BudgetRefused.example(project_id="guests", job_id=placed.job_id, revision=placed.revision)
        await jobs.refuse_job(tx, refusal)
    assert steps(await receiver.said(HandoverAnswered)) == ["declined"]


async def test_what_was_not_agreed_is_declined_with_the_reason(home: Side, receiver: Side) -> None:
    await away(home)
    (asked,) = await announced(home.db, HandoverAsked)
    unlike = [
        asked.model_copy(update={"handover_id": "a", "agreement_id": "another"}),
        asked.model_copy(update={"handover_id": "b", "resource": "leonardo/leonardo-dcgp/node-time"}),
        asked.model_copy(update={"handover_id": "c", "amount": asked.amount - 1}),
        asked.model_copy(update={"handover_id": "d", "nodes": 2, "slices": 33, "amount": 33 * HOUR}),
    ]
    await receiver.hear(HOME, *unlike)
    answers = await announced(receiver.db, HandoverAnswered)
    assert [(one.handover_id, one.step, bool(one.because)) for one in answers] == [
        (name, "declined", True) for name in "abcd"
    ]


async def test_nobody_speaks_for_another_factory(home: Side, receiver: Side) -> None:
    await away(home)
    (asked,) = await announced(home.db, HandoverAsked)
    with pytest.raises(Invalid):
        await receiver.hear("bsc-aif", asked)
    stolen = HandoverAnswered.example(
        handover_id=asked.handover_id, home=HOME, receiver="bsc-aif", step="accepted", used=None, outcome=None
    )
    with pytest.raises(Invalid):
        await home.hear(RECEIVER, stolen)
    with pytest.raises(Exception, match="not theirs"):
        await home.hear("bsc-aif", stolen)


async def test_the_database_itself_keeps_the_end_of_a_handover(home: Side, receiver: Side) -> None:
    await accepted(home, receiver)
    async with transaction(home.db) as tx:
        await tx.execute("UPDATE handover SET answer_by = now() - interval '1 second'")
        await handover.sweep(tx)
    with pytest.raises(asyncpg.CheckViolationError):
        await home.db.execute("UPDATE handover SET home_steps = '{requested,confirmed}', reason = NULL")


async def test_the_checker_is_content_with_what_happened_and_finds_what_did_not(home: Side, receiver: Side) -> None:
    await accepted(home, receiver)
    async with transaction(home.db) as tx:
        await tx.execute("UPDATE handover SET answer_by = now() - interval '1 second'")
        await handover.sweep(tx)
    await receiver.hear(HOME, *await home.said(HandoverAsked))
    rows = {side.factory: [dict(row) for row in await side.db.fetch(HANDOVERS)] for side in (home, receiver)}
    late = datetime.now(UTC) + timedelta(days=365)
    assert one_end(rows, late) == []
    (ours,), (theirs,) = rows[HOME], rows[RECEIVER]
    for wrong, row in (
        ({"reason": "cancelled"}, ours),
        ({"ended_at": None}, theirs),
        ({"dispatched_at": NOW}, theirs),
        ({"home_steps": ["requested", "confirmed"], "receiver_steps": ["accepted", "finished"]}, ours),
    ):
        broken = {HOME: [ours], RECEIVER: [theirs]} | {RECEIVER if row is theirs else HOME: [row | wrong]}
        assert one_end(broken, late) != [], wrong


async def test_no_more_is_asked_for_than_the_other_factory_has_free(home: Side) -> None:
    for number in range(6):
        await submit(home.db, name=f"more-{number}", size=Size("devices", 4))
    assert await home.offer() == 4
    assert await home.offer() == 0


async def test_a_job_that_wants_another_partition_or_other_software_stays(home: Side) -> None:
    await submit(home.db, software_stack="rocm")
    assert await home.offer() == 0
    assert wish(software_stack="rocm").software_stack != BOOSTER.software_stack
