"""What the site agent does, on a real database, tick by tick."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import pytest
from aifn_common.database import Transaction, transaction
from aifn_events.base import Event
from aifn_events.placement import JobEnded, JobStarted
from aifn_events.registry import CapacityReported, MachineDescribed
from aifn_events.usage import UsageReported
from aifn_siteagent import actions
from aifn_siteagent.domain import OldPassport, UnitsChanged, UnknownPartition, WrongResource

from tests.siteagent.conftest import BEGIN, GPU_TIME, Site, cancelled, dispatched, passport


class Killed(Exception):
    """The process died here."""


def at(seconds: int) -> object:
    return BEGIN + timedelta(seconds=seconds)


async def jobs_in(site: Site) -> int:
    return int(await site.db.fetchval("SELECT count(*) FROM job"))


async def test_a_job_starts_ends_and_is_counted_to_the_second(site: Site) -> None:
    site.time.at(10.9)
    await site.hear(dispatched())
    await site.tick(5000)
    (started,) = await site.told(JobStarted)
    (used,) = await site.told(UsageReported)
    (ended,) = await site.told(JobEnded)
    assert (started.job_id, started.segment, started.started_at) == ("job-1", 0, at(11))
    assert (used.submitted_at, used.started_at, used.ended_at) == (at(11), at(11), at(3011))
    assert used.amounts == {GPU_TIME: 64 * 3000}
    assert (used.segment, used.revision, used.kind, used.state, used.nodes) == (0, 0, "run", "COMPLETED", 1)
    assert (used.machine_id, used.job_id, used.project_id) == ("lumi", "job-1", "aif-2026-0117")
    assert used.collector.startswith("simulated/")
    assert (ended.outcome, ended.ended_at, ended.segments) == ("completed", at(3011), 1)


async def test_a_job_that_outlives_its_walltime_is_ended_there(site: Site) -> None:
    await site.hear(dispatched(walltime_seconds=100))
    await site.tick(5000)
    (used,) = await site.told(UsageReported)
    (ended,) = await site.told(JobEnded)
    assert (used.state, used.amounts) == ("TIMEOUT", {GPU_TIME: 6400})
    assert (ended.outcome, ended.ended_at) == ("timeout", at(101))


async def test_a_script_that_exits_with_an_error_has_failed(site: Site) -> None:
    await site.hear(dispatched(script="#!/bin/sh\nsleep 5\nexit 2\n"))
    await site.tick(100)
    (ended,) = await site.told(JobEnded)
    assert (ended.outcome, ended.detail) == ("failed", "its script ended with exit code 2")


async def test_a_job_on_several_nodes_is_counted_with_whole_nodes(site: Site) -> None:
    await site.hear(dispatched(nodes=2, slices=96))
    await site.tick(5000)
    (used,) = await site.told(UsageReported)
    assert (used.nodes, used.amounts) == (2, {GPU_TIME: 2 * 64 * 3000})


async def test_the_same_dispatch_delivered_twice_queues_one_job(site: Site) -> None:
    event = dispatched()
    await site.hear(event)
    await site.hear(event)
    assert await jobs_in(site) == 1


async def test_a_second_message_about_the_same_job_queues_nothing_even_after_its_end(site: Site) -> None:
    await site.hear(dispatched(script="true"))
    await site.tick(10)
    await site.hear(dispatched())
    await site.tick(20)
    assert await jobs_in(site) == 1
    assert len(await site.told(JobEnded)) == 1


async def test_a_job_for_another_machine_is_heard_and_left_alone(site: Site) -> None:
    await site.hear(dispatched(machine_id="leonardo"))
    await site.hear(cancelled(machine_id="leonardo"))
    assert await jobs_in(site) == 0
    assert await site.db.fetchval("SELECT count(*) FROM early_cancel") == 0
    assert await site.db.fetchval("SELECT count(*) FROM inbox WHERE consumer LIKE '%aifn-job-%'") == 2


async def test_a_job_for_an_unknown_partition_is_refused_and_changes_nothing(site: Site) -> None:
    with pytest.raises(UnknownPartition) as refused:
        await site.hear(dispatched(partition_id="lumi-x"))
    assert refused.value.details == {"machine_id": "lumi", "partition_id": "lumi-x"}
    assert await jobs_in(site) == 0


async def test_a_job_that_came_before_its_machine_is_refused_and_goes_through_when_it_is_replayed(
    new_site: Site,
) -> None:
    event = dispatched()
    with pytest.raises(UnknownPartition):
        await new_site.hear(event)
    await new_site.hear(MachineDescribed.example(partitions=[passport()]))
    await new_site.hear(event)
    assert await jobs_in(new_site) == 1


async def test_a_job_paid_in_another_resource_is_refused(site: Site) -> None:
    with pytest.raises(WrongResource):
        await site.hear(dispatched(resource="lumi/lumi-g/node-time"))
    assert await jobs_in(site) == 0


async def test_a_job_larger_than_the_partition_ends_as_refused_with_a_reason(site: Site) -> None:
    await site.hear(dispatched(nodes=5, slices=5 * 64))
    await site.tick(10)
    (ended,) = await site.told(JobEnded)
    assert (ended.outcome, ended.segments) == ("refused", 0)
    assert ended.detail == "needs 5 nodes at once, 4 are in service"
    assert await site.told(UsageReported) == []


async def test_nothing_is_lost_or_doubled_when_the_process_dies_in_mid_tick(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(tx: Transaction, events: Sequence[Event]) -> None:
        raise Killed

    await site.hear(dispatched(script="sleep 30"))
    with monkeypatch.context() as patched:
        patched.setattr(actions, "announce_all", die)
        with pytest.raises(Killed):
            await site.tick(60)
    assert await site.all_told() == []
    await site.tick(61)
    await site.tick(62)
    assert [one.started_at for one in await site.told(JobStarted)] == [at(1)]
    assert [one.ended_at for one in await site.told(JobEnded)] == [at(31)]
    assert len(await site.told(UsageReported)) == 1


async def test_nothing_is_lost_or_doubled_when_the_process_dies_after_a_tick(site: Site) -> None:
    event = dispatched(script="sleep 30")
    await site.hear(event)
    await site.tick(10)
    await site.db.expire_connections()
    await site.hear(event)
    await site.tick(60)
    assert [type(one) for one in await site.all_told() if one.key == "job-1"] == [JobStarted, UsageReported, JobEnded]


async def play_a_day(site: Site, step: int) -> list[tuple[str, str, object]]:
    """Twenty jobs, submitted ten at 0 s and ten at 300 s, looked at every `step` seconds."""
    for now in range(0, 3000, step):
        site.time.at(now)
        if now in (0, 300):
            for number in range(10):
                one = f"job-{now}-{number}"
                await site.hear(
                    dispatched(
                        one,
                        slices=8 * (1 + number % 8),
                        nodes=1 if number < 8 else 2,
                        script=f"sleep {40 + 17 * number}",
                    )
                )
            await site.hear(cancelled(f"job-{now}-3"))
        await site.tick(now)
    found: list[tuple[str, str, object]] = []
    for event in await site.all_told():
        if isinstance(event, JobStarted):
            found.append(("started", event.job_id, event.started_at))
        elif isinstance(event, UsageReported):
            found.append(("used", event.job_id, event.amounts))
        elif isinstance(event, JobEnded):
            found.append((event.outcome, event.job_id, event.ended_at))
    return found


@pytest.mark.parametrize("step", [50, 300])
async def test_how_often_the_clock_ticks_changes_no_event(site: Site, step: int) -> None:
    first = await play_a_day(site, step)
    seldom = [one.model_dump() for one in await site.told(UsageReported)]
    await site.db.execute("TRUNCATE job, usage_record, usage_day, outbox, inbox RESTART IDENTITY")
    await site.db.execute("UPDATE machine SET advanced_until = $1", BEGIN)
    again = await play_a_day(site, 10)
    assert again == first
    assert [one.model_dump() for one in await site.told(UsageReported)] == seldom
    assert Counter(kind for kind, *_ in again) == {"started": 18, "used": 18, "completed": 18, "cancelled": 2}


async def test_a_clock_that_goes_back_changes_nothing(site: Site) -> None:
    await site.hear(dispatched(script="sleep 30"))
    await site.tick(20)
    before = await site.all_told()
    assert await site.tick(5) is False
    assert await site.all_told() == before
    await site.hear(dispatched("job-2", script="true"))
    await site.tick(40)
    (second,) = [one for one in await site.told(JobStarted) if one.job_id == "job-2"]
    assert second.started_at == at(21)


async def test_a_look_at_which_nothing_happened_writes_nothing(site: Site) -> None:
    await site.hear(dispatched())
    assert await site.tick(10) is True
    written = await site.db.fetch("SELECT xmin::text, advanced_until FROM machine")
    assert await site.tick(20) is False
    assert await site.db.fetch("SELECT xmin::text, advanced_until FROM machine") == written


async def test_a_job_that_does_not_fit_yet_is_not_looked_at_again_until_something_ends(site: Site) -> None:
    await site.hear(dispatched("job-1", nodes=4, slices=256, script="sleep 100"))
    await site.hear(dispatched("job-2", nodes=4, slices=256, script="sleep 100"))
    assert await site.tick(10) is True
    assert await site.tick(90) is False
    assert await site.tick(110) is True
    assert [one.started_at for one in await site.told(JobStarted)] == [at(1), at(101)]


async def test_a_job_that_is_submitted_during_a_tick_comes_after_it(site: Site) -> None:
    async with transaction(site.db) as tx:
        site.time.at(100)
        await actions.follow(tx, site.settings)
        submission = asyncio.create_task(site.hear(dispatched(script="true")))
        await asyncio.sleep(0.1)
        assert not submission.done()
        site.time.at(50)
    await submission
    await site.tick(200)
    assert [one.started_at for one in await site.told(JobStarted)] == [at(101)]


async def test_a_waiting_job_that_is_cancelled_ends_without_a_segment(site: Site) -> None:
    await site.hear(dispatched("job-1", nodes=4, slices=256))
    await site.hear(dispatched("job-2"))
    await site.tick(10)
    await site.hear(cancelled("job-2", reason="asked by its owner"))
    await site.tick(20)
    (ended,) = await site.told(JobEnded)
    assert (ended.job_id, ended.outcome, ended.segments, ended.ended_at) == ("job-2", "cancelled", 0, at(11))
    assert ended.detail == "asked by its owner"
    assert await site.told(UsageReported) == []


async def test_a_running_job_that_is_cancelled_ends_now_and_is_counted(site: Site) -> None:
    await site.hear(dispatched())
    await site.tick(10)
    await site.hear(cancelled())
    await site.hear(cancelled())
    await site.tick(500)
    (used,) = await site.told(UsageReported)
    (ended,) = await site.told(JobEnded)
    assert (used.state, used.amounts, used.ended_at) == ("CANCELLED", {GPU_TIME: 640}, at(11))
    assert (ended.outcome, ended.segments) == ("cancelled", 1)


async def test_cancelling_a_job_that_has_ended_changes_nothing(site: Site) -> None:
    await site.hear(dispatched(script="true"))
    await site.tick(10)
    before = await site.all_told()
    await site.hear(cancelled())
    await site.tick(20)
    assert await site.all_told() == before


async def test_a_cancellation_that_comes_before_its_job_stops_it_as_it_comes(site: Site) -> None:
    await site.hear(cancelled())
    await site.hear(dispatched())
    await site.tick(20)
    (ended,) = await site.told(JobEnded)
    assert (ended.outcome, ended.segments) == ("cancelled", 0)
    assert await site.told(JobStarted) == []
    assert await site.db.fetchval("SELECT count(*) FROM early_cancel") == 0


async def test_a_requeued_job_reports_two_segments_with_their_own_submissions(site: Site) -> None:
    site.settings = site.settings.model_copy(update={"simulated_requeue_per_mille": 1000})
    await site.hear(dispatched(script="sleep 100"))
    for now in range(0, 300, 7):
        await site.tick(now)
    first, second = await site.told(UsageReported)
    assert (first.kind, first.state, first.segment) == ("requeued", "REQUEUED", 0)
    assert (second.kind, second.state, second.segment) == ("run", "COMPLETED", 1)
    assert first.local_job_id == second.local_job_id
    assert second.submitted_at == first.ended_at > first.submitted_at
    assert second.amounts == {GPU_TIME: 6400}
    assert [one.segment for one in await site.told(JobStarted)] == [0, 1]
    assert [one.segments for one in await site.told(JobEnded)] == [2]


async def test_a_person_has_one_local_user_and_two_have_two(site: Site) -> None:
    for number, subject in enumerate(["mari@myaccessid", "mari@myaccessid", "juho@myaccessid"]):
        await site.hear(dispatched(f"job-{number}", submitted_by=subject, script="true"))
    await site.tick(10)
    first, second, third = [one.local_user for one in await site.told(UsageReported)]
    assert first == second != third
    assert len(first) == 9


async def test_capacity_is_reported_at_the_start_and_then_every_interval(site: Site) -> None:
    for now in range(0, 700, 50):
        await site.tick(now)
    assert [one.observed_at for one in await site.told(CapacityReported)] == [at(0), at(300), at(600)]


async def test_a_capacity_report_is_true_to_the_jobs_that_run_and_wait(site: Site) -> None:
    await site.tick(0)
    await site.hear(dispatched("job-1", nodes=2, slices=128))
    await site.hear(dispatched("job-2", slices=24))
    await site.hear(dispatched("job-3", nodes=2, slices=128))
    await site.tick(300)
    seen = (await site.told(CapacityReported))[-1]
    assert (seen.nodes_in_service, seen.nodes_idle, seen.slices_idle) == (4, 1, 64 + 40)
    assert (seen.jobs_running, seen.jobs_waiting, seen.backend) == (2, 1, "simulated")


async def test_each_partition_is_reported_and_configured_nodes_win(new_site: Site) -> None:
    new_site.settings = new_site.settings.model_copy(update={"simulated_nodes": {"lumi-c": 3}})
    described = MachineDescribed.example(partitions=[passport(nodes=None), passport("lumi-c", nodes=2048, units=128)])
    await new_site.hear(described)
    await new_site.tick(0)
    seen = {one.partition_id: one for one in await new_site.told(CapacityReported)}
    assert {name: one.nodes_in_service for name, one in seen.items()} == {"lumi-g": 0, "lumi-c": 3}
    assert seen["lumi-c"].slices_idle == 384


async def test_nodes_added_to_the_configuration_are_reported_and_used_at_once(site: Site) -> None:
    await site.hear(dispatched("job-1", nodes=4, slices=256))
    await site.hear(dispatched("job-2"))
    await site.tick(10)
    site.settings = site.settings.model_copy(update={"simulated_nodes": {"lumi-g": 5}})
    await site.tick(20)
    assert [one.started_at for one in await site.told(JobStarted)] == [at(1), at(20)]
    assert [one.nodes_in_service for one in await site.told(CapacityReported)] == [4, 5]


async def test_an_older_passport_is_refused_and_the_same_one_again_is_not(site: Site) -> None:
    await site.hear(MachineDescribed.example(revision=3, partitions=[passport(nodes=6)]))
    await site.hear(MachineDescribed.example(revision=3, partitions=[passport(nodes=6)]))
    with pytest.raises(OldPassport) as refused:
        await site.hear(MachineDescribed.example(revision=2, partitions=[passport(nodes=2)]))
    assert refused.value.code == "stale_event"
    assert await site.db.fetchval("SELECT described_nodes FROM partition") == 6


async def test_units_do_not_change_under_jobs(site: Site) -> None:
    await site.hear(dispatched(script="sleep 10"))
    changed = MachineDescribed.example(revision=1, partitions=[passport(units=128)])
    with pytest.raises(UnitsChanged):
        await site.hear(changed)
    await site.tick(20)
    await site.hear(changed)
    assert await site.db.fetchval("SELECT units_per_node FROM partition") == 128


RETIRED = MachineDescribed.example(revision=1, retired=True, partitions=[passport()])


async def ends(site: Site) -> list[tuple[str, str, object, int]]:
    """How jobs ended: name, outcome, when, segments."""
    return [(one.job_id, one.outcome, one.ended_at, one.segments) for one in await site.told(JobEnded)]


async def test_a_job_on_its_way_to_a_withdrawn_partition_is_refused_there_and_what_runs_goes_on(site: Site) -> None:
    await site.hear(dispatched("job-1", script="sleep 50"))
    await site.tick(10)
    await site.hear(RETIRED)
    await site.hear(dispatched("job-2"))
    await site.tick(20)
    await site.tick(100)
    assert await ends(site) == [("job-2", "refused", at(11), 0), ("job-1", "completed", at(51), 1)]
    assert (await site.told(JobEnded))[0].detail == "needs 1 nodes at once, 0 are in service"
    assert await site.tick(200) is False


async def test_a_job_that_waits_in_a_partition_that_is_withdrawn_is_refused_and_what_runs_goes_on(site: Site) -> None:
    await site.hear(dispatched("job-1", nodes=4, slices=256, script="sleep 50"))
    await site.hear(dispatched("job-2"))
    await site.tick(10)
    await site.hear(dispatched("job-3"))
    await site.hear(RETIRED)
    await site.tick(10)
    await site.tick(100)
    assert sorted(await ends(site)) == [
        ("job-1", "completed", at(51), 1),
        ("job-2", "refused", at(10), 0),
        ("job-3", "refused", at(100), 0),
    ]
    assert {one.detail for one in await site.told(JobEnded) if one.outcome == "refused"} == {
        "its partition was withdrawn before it could start"
    }
    assert [one.job_id for one in await site.told(UsageReported)] == ["job-1"]
    assert await site.db.fetchval("SELECT count(*) FROM job WHERE outcome IS NULL") == 0


async def test_a_job_that_loses_its_node_in_a_withdrawn_partition_ends_with_the_segment_it_ran(site: Site) -> None:
    site.settings = site.settings.model_copy(update={"simulated_requeue_per_mille": 1000})
    await site.hear(dispatched(script="sleep 100"))
    await site.tick(1)
    await site.hear(RETIRED)
    await site.tick(2)
    await site.tick(200)
    assert await ends(site) == [("job-1", "refused", at(200), 1)]
    assert [one.kind for one in await site.told(UsageReported)] == ["requeued"]


async def test_a_job_that_waited_where_nothing_was_in_service_is_refused_once_that_is_withdrawn(site: Site) -> None:
    await site.hear(dispatched("job-1", nodes=4, slices=256, script="sleep 50"))
    await site.hear(dispatched("job-2"))
    await site.tick(10)
    site.settings = site.settings.model_copy(update={"simulated_nodes": {"lumi-g": 0}})
    await site.tick(20)
    await site.tick(60)
    await site.hear(RETIRED)
    await site.tick(70)
    assert await ends(site) == [("job-1", "completed", at(51), 1), ("job-2", "refused", at(70), 0)]


async def test_a_withdrawn_partition_is_reported_once_as_empty_until_it_comes_back(site: Site) -> None:
    await site.tick(0)
    await site.hear(RETIRED)
    for now in range(10, 1000, 110):
        await site.tick(now)
    assert [one.nodes_in_service for one in await site.told(CapacityReported)] == [4, 0]
    await site.hear(MachineDescribed.example(revision=2, partitions=[passport()]))
    await site.tick(1000)
    assert [one.nodes_in_service for one in await site.told(CapacityReported)] == [4, 0, 4]


async def test_another_machine_is_none_of_our_business(new_site: Site) -> None:
    await new_site.hear(MachineDescribed.example(machine_id="leonardo", partitions=[passport()]))
    assert await new_site.tick(10) is False
    assert await new_site.db.fetchval("SELECT count(*) FROM partition") == 0
