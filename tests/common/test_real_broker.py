"""The plumbing on a real broker and a real database: hostile messages, faults, duplicates, sharing of work."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from aifn_common.database import Database
from aifn_common.health import Watch
from aifn_common.hearing import COMMIT_SECONDS
from aifn_common.outbox import waiting
from aifn_common.service import Service, Worker
from aifn_events.base import Event
from aifn_events.placement import BudgetHeld, JobPlaced
from aifn_events.usage import UsageCharged, UsageReported
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from tests.support.kafka import message, producer, read_all, send
from tests.support.settings import settings
from tests.support.victim import MANY, Behaviour, Tired, VictimSettings, effects, failing, make_victim, sleeping
from tests.support.waiting import until

pytestmark = pytest.mark.kafka


def worker(service: Service, url: str, kafka: str, **more: Any) -> Worker:
    """A worker of this service in this process."""
    return Worker(service, settings(VictimSettings, database_url=url, kafka=kafka, **more))


def placed(name: str, **more: Any) -> JobPlaced:
    return JobPlaced.example(job_id=name, **more)


def used(name: str, amount: int = 1, **more: Any) -> UsageReported:
    return UsageReported.example(local_job_id=name, amounts={"lumi/lumi-g/gpu-time": amount}, **more)


def joined(one: Worker, groups: int) -> bool:
    """Whether every subscription of a worker holds partitions; its consumer may do so while it still starts."""
    watch: Watch | None = one.watch
    if watch is None or len(watch.groups) != groups or watch.unassigned():
        return False
    return all(consumer is not None for _, consumer in one._consumers())


async def dead(db: Database) -> list[tuple[str, str]]:
    """Topic and code of every dead letter."""
    return [(row["topic"], row["code"]) for row in await db.fetch("SELECT topic, code FROM dead_letter ORDER BY id")]


async def send_raw(kafka: str, *messages: dict[str, Any]) -> None:
    async with producer(kafka) as made:
        for one in messages:
            await made.send_and_wait(**one)


def with_headers(event: Event, *more: tuple[str, bytes | None], drop: str = "") -> dict[str, Any]:
    """An event's message with headers added, and one left out."""
    made = message(event)
    made["headers"] = [pair for pair in made["headers"] if pair[0] != drop] + list(more)
    return made


async def test_an_event_has_its_effect_and_what_follows_is_announced(kafka: str, url: str, victim_db: Database) -> None:
    async with worker(make_victim(), url, kafka):
        await send(kafka, placed("a", amount=5))
        await until(lambda: _held(kafka, 1))
    assert await effects(victim_db) == ["a"]
    assert await waiting(victim_db) == 0


async def _held(kafka: str, count: int) -> bool:
    return len(await read_all(kafka, BudgetHeld.topic)) >= count


async def test_a_header_that_asks_for_an_answer_is_obeyed_by_nobody(kafka: str, url: str, victim_db: Database) -> None:
    async with worker(make_victim(), url, kafka):
        await send_raw(kafka, with_headers(placed("a"), ("reply_to", UsageCharged.topic.encode())))
        await send(kafka, placed("b"))
        await until(lambda: _effects_are(victim_db, ["a", "b"]))
    assert await read_all(kafka, UsageCharged.topic) == []


async def _charges_are(db: Database, names: list[str]) -> bool:
    return sorted(row["what"] for row in await db.fetch("SELECT what FROM charge")) == sorted(names)


async def _effects_are(db: Database, names: Sequence[str]) -> bool:
    return sorted(await effects(db)) == sorted(names)


HOSTILE: list[tuple[str, tuple[str, bytes | None], str]] = [
    ("ce_id", ("ce_id", b"\xff\xfe"), "header_not_utf8"),
    ("ce_id", ("ce_id", None), "header_null"),
    ("", ("ce_id", b"another"), "header_repeated"),
    ("ce_id", ("ce_id", b"a\x00b"), "header_control"),
    ("content-type", ("content-type", b"application/cloudevents+json"), "not_json"),
    ("ce_specversion", ("ce_specversion", b"0.3"), "unknown_version"),
]


@pytest.mark.parametrize("kind", ["single", "batch"])
async def test_hostile_headers_are_set_aside_and_the_partition_goes_on(
    kafka: str, url: str, victim_db: Database, kind: str
) -> None:
    make = placed if kind == "single" else used
    later = make("x").type_name().removesuffix("v1") + "v2"
    hostile = [*HOSTILE, ("ce_type", ("ce_type", later.encode()), "unknown_version")]
    messages = [with_headers(make(f"bad{n}"), header, drop=drop) for n, (drop, header, _) in enumerate(hostile)]
    # A header that is none of ours may hold anything: it harms nobody and is not read.
    harmless = [("x-foreign", b"\xff"), ("x-foreign", None), ("correlation_id", b"\xff")]
    async with worker(make_victim(), url, kafka):
        await send_raw(kafka, *messages, with_headers(make("good"), *harmless))
        await until(lambda: _dead_are(victim_db, len(hostile)))
        table = "effect" if kind == "single" else "charge"
        await until(lambda: _rows(victim_db, table, "good"))
        topic = make("x").topic
        await until(lambda: _copied(kafka, f"{topic}-dead", len(hostile)))
    assert sorted(code for _, code in await dead(victim_db)) == sorted(code for *_, code in hostile)
    assert [row["what"] for row in await victim_db.fetch(f"SELECT what FROM {table}")] == ["good"]
    copies = await read_all(kafka, f"{topic}-dead")
    sent = {one["value"]: one for one in messages}
    for copy in copies:
        given = sent.pop(copy.value)
        assert (copy.key, copy.value) == (given["key"], given["value"])
        assert list(copy.headers)[: len(given["headers"])] == given["headers"]
    assert not sent


async def _dead_are(db: Database, count: int) -> bool:
    return len(await dead(db)) == count


async def _rows(db: Database, table: str, what: str) -> bool:
    return bool(await db.fetchval(f"SELECT count(*) FROM {table} WHERE what = $1", what) == 1)


async def _copied(kafka: str, topic: str, count: int) -> bool:
    return len(await read_all(kafka, topic)) == count


async def test_a_message_without_value_or_with_nonsense_in_it_is_set_aside(
    kafka: str, url: str, victim_db: Database
) -> None:
    values: list[bytes | None] = [None, b"", b"\xff", b"[]", b"{}", b'{"job_id": "\\u0000"}', b"[" * 50_000]
    messages = [message(placed(f"bad{n}")) | {"value": value} for n, value in enumerate(values)]
    async with worker(make_victim(), url, kafka):
        await send_raw(kafka, *messages, message(placed("good")))
        await until(lambda: _dead_are(victim_db, len(values)))
        await until(lambda: _effects_are(victim_db, ["good"]))
        await until(lambda: _copied(kafka, f"{JobPlaced.topic}-dead", len(values)))
    codes = Counter(code for _, code in await dead(victim_db))
    assert codes["no_value"] == 1
    assert set(codes) <= {"no_value", "not_json", "invalid_payload"}
    # A tombstone stays a tombstone, and an empty value stays an empty value.
    kept = [row["value"] for row in await victim_db.fetch("SELECT value FROM dead_letter")]
    assert sorted(kept, key=repr) == sorted(values, key=repr)
    assert sorted((one.value for one in await read_all(kafka, f"{JobPlaced.topic}-dead")), key=repr) == sorted(
        values, key=repr
    )


async def test_a_message_with_neither_key_nor_value_is_set_aside_and_does_not_block_the_outbox(
    kafka: str, url: str, victim_db: Database
) -> None:
    async with worker(make_victim(), url, kafka):
        async with producer(kafka) as made:
            batch = made.create_batch()
            batch.append(key=None, value=None, timestamp=None, headers=[("x", b"\xff")])
            batch.close()
            await (await made.send_batch(batch, JobPlaced.topic, partition=0))
        await send(kafka, placed("good"))
        await until(lambda: _held(kafka, 1))
        await until(lambda: _copied(kafka, f"{JobPlaced.topic}-dead", 1))
    assert await dead(victim_db) == [(JobPlaced.topic, "attribute_missing")]
    assert await victim_db.fetchval("SELECT key IS NULL AND value IS NULL FROM dead_letter")


async def test_a_message_larger_than_the_relay_can_send_does_not_block_the_outbox(
    kafka: str, url: str, victim_db: Database
) -> None:
    """Compression lets a message through the broker's limit that is far larger once it has been unpacked."""
    async with worker(make_victim(), url, kafka):
        big = AIOKafkaProducer(bootstrap_servers=kafka, compression_type="gzip", max_request_size=50_000_000)
        await big.start()
        try:
            await big.send_and_wait(**(message(placed("big")) | {"value": b" " * 20_000_000}))
            await big.send_and_wait(**message(placed("good")))
        finally:
            await big.stop()
        await until(lambda: _effects_are(victim_db, ["good"]))
        await until(lambda: _held(kafka, 1))
        await until(lambda: _copied(kafka, f"{JobPlaced.topic}-dead", 1))
    assert await dead(victim_db) == [(JobPlaced.topic, "too_large")]
    assert await victim_db.fetchval("SELECT length(value) FROM dead_letter") == 20_000_000


async def test_the_same_events_sent_three_times_have_their_effect_once(
    kafka: str, url: str, victim_db: Database
) -> None:
    jobs = [placed(f"job-{n}", project_id=f"p-{n % 5}") for n in range(30)]
    records = [used(f"job-{n}", n, job_id=f"job-{n}") for n in range(30)]
    async with worker(make_victim(max_records=7), url, kafka):
        for _ in range(3):
            await send(kafka, *jobs, *records)
        last = placed("last"), used("last", 0)
        await send(kafka, *last)
        await until(lambda: _rows(victim_db, "effect", "last"))
        # The last of one partition is not the last of all.
        await until(lambda: _charges_are(victim_db, [*(job.job_id for job in jobs), "last"]))
        await until(lambda: _effects_are(victim_db, [*(job.job_id for job in jobs), "last"]))
        await until(lambda: _held(kafka, 31))
    assert await victim_db.fetchval("SELECT amount FROM total") == sum(range(30))
    assert len(await read_all(kafka, BudgetHeld.topic)) == 31
    assert await dead(victim_db) == []


async def test_a_failure_that_heals_is_tried_again_and_has_its_effect_once(
    kafka: str, url: str, victim_db: Database
) -> None:
    does = Behaviour({"weak": failing(2, RuntimeError("not now")), "cut": failing(4, ConnectionResetError("gone"))})
    async with worker(make_victim(does), url, kafka):
        await send(kafka, placed("weak"), placed("cut"), placed("next"))
        await until(lambda: _effects_are(victim_db, ["weak", "cut", "next"]))
    assert Counter(does.attempts) == {"weak": 3, "cut": 5, "next": 1}
    assert await dead(victim_db) == []


async def test_a_bug_gets_three_attempts_then_is_set_aside_and_the_next_message_is_handled(
    kafka: str, url: str, victim_db: Database
) -> None:
    does = Behaviour({"bug": failing(99, KeyError("our fault")), "tired": failing(99, Tired("tired"))})
    async with worker(make_victim(does), url, kafka):
        await send(kafka, placed("first"), placed("bug"), placed("tired"), placed("next"))
        await until(lambda: _effects_are(victim_db, ["first", "next"]))
    assert Counter(does.attempts) == {"first": 1, "bug": 3, "tired": 1, "next": 1}
    rows = await victim_db.fetch("SELECT code, reason, details FROM dead_letter ORDER BY id")
    assert [(row["code"], row["details"]) for row in rows] == [("fault", {}), ("tired", {"asked": 7})]
    assert "KeyError" in rows[0]["reason"]


async def test_many_hopeless_messages_in_a_row_stop_the_subscription_and_readiness_says_so(
    kafka: str, url: str, victim_db: Database
) -> None:
    service = make_victim()
    one = worker(service, url, kafka, dead_letter_limit=20)
    async with one:
        poison = [message(placed(f"bad-{n}")) | {"value": b"no"} for n in range(30)]
        await send_raw(kafka, *poison, message(placed("good")))
        assert one.watch is not None
        watch = one.watch
        await until(lambda: watch.stopped() != [])
        await asyncio.sleep(0.5)
        assert watch.stopped() == [service.hears.single[0].group]
        assert len(await dead(victim_db)) == 20
        assert watch.stalled() == []
    assert await effects(victim_db) == []
    # Somebody has looked and starts it again: what waited is handled, what was set aside is not set aside twice.
    async with worker(service, url, kafka, dead_letter_limit=1000):
        await until(lambda: _effects_are(victim_db, ["good"]))
    assert len(await dead(victim_db)) == 30


async def test_hopeless_messages_with_good_ones_between_do_not_stop_the_subscription(
    kafka: str, url: str, victim_db: Database
) -> None:
    one = worker(make_victim(), url, kafka, dead_letter_limit=5)
    async with one:
        for n in range(8):
            bad = message(placed(f"bad-{n}")) | {"value": b"no"}
            await send_raw(kafka, bad, message(placed(f"good-{n}")))
        await until(lambda: _effects_are(victim_db, [f"good-{n}" for n in range(8)]))
        assert one.watch is not None
        assert one.watch.stopped() == []


async def test_bad_records_in_the_middle_of_a_batch_are_set_aside_and_the_rest_goes_through(
    kafka: str, url: str, victim_db: Database
) -> None:
    does = Behaviour({"tired": failing(99, Tired("tired"))})
    good = [used(f"u-{n}", 10, job_id="one") for n in range(40)]
    unreadable = message(used("bad", job_id="one")) | {"value": b'{"amounts": {}}'}
    messages = [message(record) for record in good]
    messages[20:20] = [unreadable, message(used("tired", job_id="one")), message(good[0]), message(good[1])]
    await send_raw(kafka, *messages)
    async with worker(make_victim(does), url, kafka):
        await until(lambda: _total_is(victim_db, 400))
        await until(lambda: _copied(kafka, UsageCharged.topic, 40))
    assert sorted(await dead(victim_db)) == [(UsageReported.topic, "invalid_payload"), (UsageReported.topic, "tired")]
    assert max(map(len, does.batches)) > 20


async def _total_is(db: Database, amount: int) -> bool:
    return bool(await db.fetchval("SELECT amount FROM total") == amount)


async def test_a_batch_that_fails_is_halved_until_only_the_culprit_is_set_aside(
    kafka: str, url: str, victim_db: Database
) -> None:
    does = Behaviour({"bug": failing(10_000, ZeroDivisionError("our fault"))})
    records = [used(f"u-{n}", 3, job_id="one") for n in range(33)]
    records.insert(11, used("bug", job_id="one"))
    await send(kafka, *records)
    async with worker(make_victim(does), url, kafka):
        await until(lambda: _total_is(victim_db, 99))
        await until(lambda: _dead_are(victim_db, 1))
        await until(lambda: _copied(kafka, UsageCharged.topic, 33))
    assert await dead(victim_db) == [(UsageReported.topic, "fault")]


async def test_a_bug_that_hits_every_record_of_a_batch_stops_the_reader_at_the_limit(
    kafka: str, url: str, victim_db: Database
) -> None:
    """A fault of ours must not carry thousands of good records to the dead letters."""
    names = [f"u-{n}" for n in range(64)]
    does = Behaviour({name: failing(10_000, ZeroDivisionError("our fault")) for name in names})
    await send(kafka, *(used(name, 1, job_id="one") for name in names))
    one = worker(make_victim(does), url, kafka, dead_letter_limit=10)
    async with one:
        assert one.watch is not None
        watch = one.watch
        await until(lambda: watch.stopped() != [])
        assert len(await dead(victim_db)) == 10
    does.misdeeds.clear()
    async with worker(make_victim(does, name=one._service.name), url, kafka):
        await until(lambda: _total_is(victim_db, 64))
        assert await victim_db.fetchval("SELECT count(*) FROM charge") == 64


async def test_many_subscriptions_start_together_and_probes_answer_before_they_have_joined(
    kafka: str, url: str
) -> None:
    one = worker(make_victim(kinds=MANY), url, kafka)
    async with one:
        assert one.watch is not None
        watch = one.watch
        assert len(watch.unassigned()) == len(MANY)
        assert watch.stalled() == []
        await until(lambda: joined(one, len(MANY)), seconds=30)


async def test_an_offset_moves_on_when_its_message_is_handled_and_not_before(kafka: str, url: str) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        await go_on.wait()

    service = make_victim(Behaviour({"waits": wait}))
    group = next(one.group for one in service.hears.single)
    async with worker(service, url, kafka):
        await send(kafka, placed("first"), placed("waits"), placed("last"))
        await begun.wait()
        await until(lambda: _committed_is(kafka, group, 1))
        await asyncio.sleep(3 * COMMIT_SECONDS)
        assert await committed(kafka, group) == 1
        go_on.set()
        await until(lambda: _committed_is(kafka, group, 3))


async def committed(kafka: str, group: str) -> int:
    """How many messages of all partitions a group has done with, as the broker knows it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(group)
        return sum(max(0, one.offset) for one in offsets.values())
    finally:
        await admin.close()


async def _committed_is(kafka: str, group: str, count: int) -> bool:
    return await committed(kafka, group) == count


async def test_no_topic_is_ever_made_by_itself(kafka: str, url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "aiokafka")

    class Unknown(JobPlaced):
        topic = "aifn-unknown-to-all-v1"

    one = worker(make_victim(kinds=(Unknown, JobPlaced)), url, kafka)
    async with one:
        await until(lambda: bool(one.watch and one.watch.groups))
        await asyncio.sleep(1)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        assert "aifn-unknown-to-all-v1" not in await admin.list_topics()
    finally:
        await admin.close()


async def test_a_consumer_that_is_stuck_is_noticed_though_the_broker_answers(
    kafka: str, url: str, victim_db: Database
) -> None:
    one = worker(make_victim(), url, kafka, stall_seconds=2)
    async with one:
        await until(lambda: joined(one, 2))
        assert one.watch is not None
        watch = one.watch
        for group, consumer in one._consumers():
            consumer.pause(*consumer.assignment())
            if "usage" in group:
                consumer.resume(*consumer.assignment())
        await send(kafka, placed("waits"), used("goes"))
        # A topic made a moment ago has no leader yet: who cannot read from it is blamed till then, and not longer.
        await until(lambda: ["job-placed" in group for group in watch.stalled()] == [True])
        for _, consumer in one._consumers():
            consumer.resume(*consumer.assignment())
        await until(lambda: _effects_are(victim_db, ["waits"]))
        await until(lambda: watch.stalled() == [])


async def test_a_second_worker_that_joins_in_the_middle_of_a_batch_doubles_nothing(
    kafka: str, url: str, victim_db: Database
) -> None:
    does = Behaviour({"u-0": sleeping(4), "job-0": sleeping(4)})
    name = "victim-shared"
    records = [used(f"u-{n}", 2, job_id=f"job-{n}") for n in range(60)]
    jobs = [placed(f"job-{n}", project_id=f"p-{n % 7}") for n in range(20)]
    await send(kafka, *records, *jobs)
    one = worker(make_victim(does, name=name), url, kafka)
    async with one:
        await until(lambda: "u-0" in does.attempts and "job-0" in does.attempts)
        two = worker(make_victim(name=name), url, kafka)
        async with two:
            await until(lambda: joined(two, 2), seconds=30)
            await until(lambda: joined(one, 2), seconds=30)
            await send(kafka, *(used(f"v-{n}", 2, job_id=f"late-{n}") for n in range(60)))
            await until(lambda: _total_is(victim_db, 240))
            await until(lambda: _effects_are(victim_db, [job.job_id for job in jobs]))
            await until(lambda: _copied(kafka, UsageCharged.topic, 120))
    assert await dead(victim_db) == []
