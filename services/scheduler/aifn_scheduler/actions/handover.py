"""Give jobs that wait at home to other factories, and run those of others: offer, hear, decide, sweep."""

from dataclasses import replace
from datetime import datetime, timedelta

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Invalid, Refusal
from aifn_common.outbox import announce
from aifn_events.federation import HandoverFromPeer, PeerFact
from aifn_events.handover import HandoverAnswered, HandoverAsked
from aifn_events.placement import JobPlaced
from aifn_events.registry import CapacityReported
from aifn_events.vocabulary import JobId, ProjectId, Subject

from aifn_scheduler.actions import away, jobs
from aifn_scheduler.domain import admission, exchange, lifecycle
from aifn_scheduler.domain import handover as rules
from aifn_scheduler.domain.admission import JobWish
from aifn_scheduler.domain.exchange import Agreement, NotAgreed, Offer
from aifn_scheduler.domain.handover import Handover
from aifn_scheduler.domain.lifecycle import AlreadyClosed, Job
from aifn_scheduler.settings import SchedulerSettings
from aifn_scheduler.store import handover as store
from aifn_scheduler.store import machines
from aifn_scheduler.store import placement as jobs_store
from aifn_scheduler.store.handover import Kept
from aifn_scheduler.store.placement import Placement, Waiting

SWEEP_AT_MOST = 100


class AgreementKnown(Refusal):
    """An agreement is never changed: another one takes its place."""

    code = "agreement_known"


async def agree(tx: Transaction, agreement: Agreement, factory: str) -> None:
    """Keep an agreement. Raises NotAgreed if it is between others; AgreementKnown, unless it is the very same."""
    if factory not in (agreement.home, agreement.receiver):
        raise NotAgreed(f"{agreement.agreement_id} is between {agreement.home} and {agreement.receiver}")
    if not await store.put_agreement(tx, agreement):
        known = await store.find_agreement(tx, agreement.agreement_id)
        if known is None or replace(known, agreed_by="") != replace(agreement, agreed_by=""):
            raise AgreementKnown(f"{agreement.agreement_id} is known with other words: give the new one a new name")


async def remember_peer(tx: Transaction, event: PeerFact) -> None:
    """Keep what another member has free; its passports are no news here."""
    if event.fact == CapacityReported.type_name():
        await store.put_peer_capacity(tx, event.origin, event.read(CapacityReported))


async def offer_waiting(tx: Transaction, settings: SchedulerSettings) -> int:
    """Have budget held for jobs that wait too long here and can run elsewhere; returns how many."""
    now = clock.now()
    agreements = await store.agreements_of(tx, settings.factory, now)
    if not (agreements or await store.any_scope(tx, now)) or not await jobs_store.try_lock_plan(tx):
        return 0
    full = [one for one in await jobs_store.list_waiting(tx, settings.plan_at_most) if _too_long(one, now, settings)]
    if not full:
        return 0
    scopes = await store.scopes_of(tx, [job.wish.project_id for job in full], now)
    partitions = await machines.get_partitions(tx)
    idle = await store.idle_elsewhere(tx, now - settings.capacity_patience)
    tried = await store.tried(tx, [one.job_id for one in full])
    at = int(now.timestamp())
    own: dict[str, set[str]] = {}
    for one in await machines.get_allocations(tx, [job.wish.project_id for job in full], now):
        if one.starts <= at < one.ends:
            own.setdefault(one.project_id, set()).add(one.partition_id)
    offered = 0
    for job in full:
        open_to = [one for one in agreements if (job.job_id, one.receiver) not in tried]
        named = [one for one in scopes if (job.job_id, one.receiver) not in tried]
        found = exchange.choose_in_scope(job.wish, named, partitions, idle) or exchange.choose(
            job.wish, open_to, own.get(job.wish.project_id, ()), partitions, idle
        )
        if found is not None:
            idle[found.partition.partition_id] -= found.taken.nodes
            offered += await _place_away(tx, job, found, settings, now)
    return offered


def _too_long(job: Waiting, now: datetime, settings: SchedulerSettings) -> bool:
    """A plan has looked at it, and it does not start here soon."""
    if job.verdicts is None:
        return False
    return job.planned_start is None or job.planned_start - now > settings.handover_after


async def _place_away(tx: Transaction, job: Waiting, offer: Offer, settings: SchedulerSettings, now: datetime) -> int:
    taken, under = offer.taken, offer.under
    exchanged = isinstance(under, Agreement)
    amount = taken.slices * job.wish.walltime_seconds
    because = f"it would wait here; {under.receiver} has room, under {under.name}"
    placement = Placement(
        job_id=job.job_id,
        machine_id=offer.partition.machine_id,
        partition_id=offer.partition.partition_id,
        resource=under.home_resource,
        nodes=taken.nodes,
        slices=taken.slices,
        amount=under.home_amount(amount),
        explanation={
            "decided_at": now.isoformat(),
            "place": 0,
            "partition_id": offer.partition.partition_id,
            "planned_start": None,
            "moved_later_from": None,
            "verdicts": f"{offer.partition.partition_id}:away",
            "reasons": [
                {
                    "partition_id": offer.partition.partition_id,
                    "verdict": "away",
                    "because": because,
                    "earliest_start": None,
                    "waits_for": [],
                }
            ],
        },
    )
    taken_up = await jobs_store.place_jobs(tx, [placement], now)
    if job.job_id not in taken_up:
        return 0
    revision = taken_up[job.job_id]
    handover = Handover(
        id=f"{job.job_id}-h{revision}",
        held=amount,
        answer_by=now + settings.handover_answer,
        end_by=now + settings.handover_answer + timedelta(seconds=3 * job.wish.walltime_seconds),
    )
    await store.add(
        tx,
        Kept(
            side="home",
            home=settings.factory,
            receiver=under.receiver,
            agreement_id=under.name if exchanged else None,
            award_id=None if exchanged else under.name,
            job_id=job.job_id,
            allocation_id=None,
            machine_id=offer.partition.machine_id,
            partition_id=offer.partition.partition_id,
            resource=offer.partition.resource,
            nodes=taken.nodes,
            slices=taken.slices,
            asked=False,
            handover=handover,
        ),
    )
    if not exchanged:
        await jobs.leave(tx, job.job_id, now)
        return 1
    await announce(
        tx,
        JobPlaced(
            project_id=job.wish.project_id,
            job_id=job.job_id,
            revision=revision,
            machine_id=placement.machine_id,
            partition_id=placement.partition_id,
            resource=placement.resource,
            amount=placement.amount,
            starts_at=now,
            workload=job.wish.workload,
        ),
    )
    return 1


async def hear(tx: Transaction, event: HandoverFromPeer, factory: str) -> None:
    """A step of the other side. Raises Invalid for what is not for us; NotFound, NotAgreed, WrongStep."""
    if event.fact == HandoverAsked.type_name():
        asked = event.read(HandoverAsked)
        if (asked.home, asked.receiver) != (event.origin, factory):
            raise Invalid(f"{asked.handover_id} is asked by {asked.home} of {asked.receiver}")
        await _hear_home(tx, asked)
    elif event.fact == HandoverAnswered.type_name():
        answered = event.read(HandoverAnswered)
        if (answered.receiver, answered.home) != (event.origin, factory):
            raise Invalid(f"{answered.handover_id} is answered by {answered.receiver} to {answered.home}")
        await _hear_receiver(tx, answered)
    else:
        raise Invalid(f"{event.fact} is no step of a hand-over")


async def _hear_home(tx: Transaction, asked: HandoverAsked) -> None:
    now = clock.now()
    kept = await store.find(tx, asked.handover_id)
    if kept is None:
        if asked.step == "requested":
            await _consider(tx, asked, now)
        return
    if kept.side != "receiver" or (kept.home, kept.receiver) != (asked.home, asked.receiver):
        raise NotAgreed(f"{asked.handover_id} is not theirs to decide")
    steps: tuple[rules.Step, ...] = ("requested",) if asked.step == "requested" else ("requested", asked.step)
    said = replace(kept.handover, home=steps, reason=asked.reason)
    before, after = kept.handover, rules.hear(kept.handover, said, "receiver")
    kept = kept.at(after)
    await store.save(tx, kept, now)
    job = await jobs_store.get_job(tx, kept.job_id, lock=True)
    if after != before and asked.step == "confirmed":
        await jobs.send_guest(tx, job, now)
    elif after != before and asked.step == "voided":
        await jobs.give_up_guest(tx, job, f"{asked.home} has taken it back ({asked.reason})", now)
    elif asked.cancelled and job.life.state != "closed":
        await jobs.cancel_job(tx, job.job_id, by=f"handover@{asked.home}")


async def _consider(tx: Transaction, asked: HandoverAsked, now: datetime) -> None:
    """Let a guest join the queue, or decline it and say why. Its budget, which is what was agreed, answers the rest."""
    try:
        project_id = await _project_for(tx, asked, now)
        partition = await machines.find_partition(tx, asked.partition_id)
        if partition is None or partition.resource != asked.resource or partition.machine_id != asked.machine_id:
            raise NotAgreed(f"{asked.resource} is not counted on {asked.partition_id}")
        if asked.amount != asked.slices * asked.walltime_seconds:
            raise NotAgreed("the amount is not slices times walltime")
        wish = JobWish(
            project_id=project_id,
            name=f"guest of {asked.home}",
            partition_id=asked.partition_id,
            size=exchange.size_of(asked.nodes, asked.slices, partition),
            walltime_seconds=asked.walltime_seconds,
            script=asked.script,
            software_stack="any",
            workload=asked.workload,
        )
        admission.admit(
            wish,
            {partition.partition_id: partition},
            await machines.get_allocations(tx, [wish.project_id], now),
            now=int(now.timestamp()),
            longest_seconds=asked.walltime_seconds,
        )
    except Refusal as refusal:
        await announce(
            tx,
            HandoverAnswered(
                handover_id=asked.handover_id,
                home=asked.home,
                receiver=asked.receiver,
                step="declined",
                at=now,
                because=str(refusal)[:1000],
            ),
        )
        return
    await jobs_store.add_job(
        tx, asked.handover_id, wish, submitted_by=f"handover@{asked.home}", now=now, traceparent=None
    )
    await store.add(
        tx,
        Kept(
            side="receiver",
            home=asked.home,
            receiver=asked.receiver,
            agreement_id=None if asked.project_id else asked.agreement_id,
            award_id=asked.agreement_id if asked.project_id else None,
            job_id=asked.handover_id,
            allocation_id=None,
            machine_id=asked.machine_id,
            partition_id=asked.partition_id,
            resource=asked.resource,
            nodes=asked.nodes,
            slices=asked.slices,
            asked=True,
            handover=Handover(asked.handover_id, asked.amount, asked.answer_by, asked.end_by),
        ),
    )


async def _project_for(tx: Transaction, asked: HandoverAsked, now: datetime) -> ProjectId:
    """In which project a guest runs: its own, if its award names both of us, else that of guests. Raises NotAgreed."""
    if asked.project_id is not None:
        scopes = await store.scopes_of(tx, [asked.project_id], now)
        if (asked.agreement_id, asked.home) not in {(one.award_id, one.receiver) for one in scopes}:
            raise NotAgreed(f"{asked.agreement_id} is no award of {asked.project_id} here that names {asked.home}")
        return asked.project_id
    known = await store.find_agreement(tx, asked.agreement_id)
    agreement = exchange.check_asked(known, home=asked.home, receiver=asked.receiver, resource=asked.resource, now=now)
    return str(agreement.guest_project)


async def _hear_receiver(tx: Transaction, answered: HandoverAnswered) -> None:
    now = clock.now()
    kept = await store.get(tx, answered.handover_id)
    if kept.side != "home" or (kept.home, kept.receiver) != (answered.home, answered.receiver):
        raise NotAgreed(f"{answered.handover_id} is not theirs to answer")
    steps = kept.handover.receiver
    if answered.step not in steps:
        steps = (*steps, answered.step)
    said = replace(kept.handover, receiver=steps, used=answered.used)
    if answered.used is not None and answered.used > kept.handover.held:
        raise rules.MoreThanHeld(kept.id, used=answered.used, held=kept.handover.held)
    job = await jobs_store.get_job(tx, kept.job_id, lock=True)
    before, heard = kept.handover, rules.hear(kept.handover, said, "home")
    after = rules.conclude(heard, now, cancel=job.life.cancel_asked_at is not None)
    kept = kept.at(after)
    if after == before:
        return
    await store.save(tx, kept, now)
    if after.home != before.home:
        await _tell_decision(tx, kept, job)
    elif after.state == "started" != before.state:
        await jobs.start_away(tx, job, answered.at)
    elif after.state == "finished" != before.state:
        await jobs.end_away(tx, job, answered.outcome or "completed", answered.at, answered.because)
        await away.settle(tx, kept)


async def _decide(tx: Transaction, kept: Kept, job: Job, now: datetime) -> bool:
    """Home confirms or voids if it is time to; returns whether it did."""
    after = rules.conclude(kept.handover, now, cancel=job.life.cancel_asked_at is not None)
    if after == kept.handover:
        return False
    kept = kept.at(after)
    await store.save(tx, kept, now)
    await _tell_decision(tx, kept, job)
    return True


async def _tell_decision(tx: Transaction, kept: Kept, job: Job) -> None:
    """Home has confirmed or voided: the receiver hears it, and a job that stays waits here again or is closed."""
    await away.say(tx, kept, job)
    if kept.handover.reason == "cancelled":
        await jobs.close_cancelled(tx, job)
    elif kept.handover.reason is not None:
        await store.requeue(tx, kept.job_id)


async def cancel(tx: Transaction, job_id: JobId, *, by: Subject) -> Job:
    """Take a job back, wherever it is. Raises NotFound, AlreadyClosed."""
    kept = await store.of_job(tx, job_id)
    if kept is None or kept.side == "receiver" or not kept.asked:
        return await jobs.cancel_job(tx, job_id, by=by)
    now = clock.now()
    job = await jobs_store.get_job(tx, job_id, lock=True)
    if job.life.state == "closed":
        raise AlreadyClosed(job_id, str(job.life.outcome))
    first_time = job.life.cancel_asked_at is None
    job = replace(job, life=lifecycle.cancel(job.life, f"asked by {by}", now))
    await jobs_store.save_life(tx, job.life)
    if not await _decide(tx, kept, job, now) and first_time:
        await away.say(tx, kept, job, cancelled=True)
    return await jobs_store.get_job(tx, job_id)


async def sweep(tx: Transaction) -> int:
    """Decide what is overdue on our side; returns how many hand-overs were looked at."""
    now = clock.now()
    found = await store.overdue(tx, now, SWEEP_AT_MOST)
    for handover_id in found:
        kept = await store.get(tx, handover_id)
        job = await jobs_store.get_job(tx, kept.job_id, lock=True)
        if kept.side == "home":
            await _decide(tx, kept, job, now)
            continue
        if kept.handover.state in ("confirmed", "started"):
            counted = away.occupied(kept, job.life, now)
            await away.finish(tx, kept, counted, now, outcome="timeout", because="it was to end by now")
        if job.life.state != "closed":
            await jobs.cancel_job(tx, job.job_id, by=f"handover@{kept.home}")
    return len(found)
