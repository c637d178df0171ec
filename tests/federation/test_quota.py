"""A member that says more than the directory allows waits; nobody else does, and nothing of it is lost."""

import asyncio
import contextlib
import re
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aifn_common import telemetry
from aifn_fedgate import ceremony, mirrored
from aifn_fedgate.domain.quota import BURST_SECONDS, LONGEST_WAIT_SECONDS, Quotas
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.federation.make import Federation, capacity
from tests.support.backends import Backends
from tests.support.kafka import producer
from tests.support.waiting import until

START = datetime(2026, 11, 21, 9, tzinfo=UTC)
MIRRORED = "relay-a.lumi-aif.aifn-out-capacity-v1"
RATES = st.integers(1, 60)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2_000_000), max_size=200), RATES)
def test_whoever_stays_within_its_rate_never_waits(pauses: list[int], rate: int) -> None:
    quotas, at = Quotas(), START
    for pause in pauses:
        at += timedelta(seconds=1 / rate, microseconds=1 + pause)
        quotas.spend("a", at, per_second=rate)
        assert quotas.settle({"a": rate}) == {}


@settings(deadline=None)
@given(st.integers(1, 5_000), RATES)
def test_of_what_is_said_at_once_a_burst_passes_and_the_rest_waits_for_its_time_at_most_some_seconds(
    facts: int, rate: int
) -> None:
    quotas = Quotas()
    for _ in range(facts):
        quotas.spend("a", START, per_second=rate)
    beyond = facts - BURST_SECONDS * rate
    wait = quotas.settle({"a": rate}).get("a", 0.0)
    assert wait == pytest.approx(max(0.0, min(LONGEST_WAIT_SECONDS, beyond / rate)))
    assert quotas.settle({"a": rate}) == {}


@settings(deadline=None)
@given(RATES, st.integers(0, 10**6))
def test_what_piled_up_over_days_passes_at_once_and_older_times_fill_nothing(rate: int, hours: int) -> None:
    quotas = Quotas()
    for second in range(3 * BURST_SECONDS):
        quotas.spend("a", START + timedelta(hours=hours, seconds=second), per_second=rate)
    assert quotas.settle({"a": rate}) == {}
    for _ in range(BURST_SECONDS * rate + 1):
        quotas.spend("a", START - timedelta(days=400), per_second=rate)
    assert set(quotas.settle({"a": rate})) == {"a"}


class Consumer:
    """Notes what is paused."""

    def __init__(self, *topics: str) -> None:
        self.paused: set[str] = set()
        self._all = [TopicPartition(topic, 0) for topic in topics]

    def assignment(self) -> list[TopicPartition]:
        return self._all

    def pause(self, *which: TopicPartition) -> None:
        self.paused |= {one.topic for one in which}

    def resume(self, *which: TopicPartition) -> None:
        self.paused -= {one.topic for one in which}


def test_all_topics_of_a_flooding_member_pause_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    of_a = ["relay-a.lumi-aif.aifn-out-capacity-v1", "relay-b.lumi-aif.aifn-out-catalogue-v1"]
    consumer = Consumer(*of_a, "relay-a.lumi.aifn-out-capacity-v1", "relay-a.bsc-aif.aifn-out-capacity-v1")
    members = {name: SimpleNamespace(events_per_second=2) for name in ("lumi-aif", "lumi", "bsc-aif")}
    door = SimpleNamespace(trust=SimpleNamespace(directory=SimpleNamespace(members=members)))
    pattern = re.compile(mirrored.pattern_of(["relay-a", "relay-b"]))
    turns = mirrored._Turns(cast(Any, consumer), cast(Any, door), pattern)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def said(origin: str) -> Any:
        return SimpleNamespace(arrival=SimpleNamespace(origin=origin), fact=SimpleNamespace(time=START))

    turns.count([said("lumi-aif")] * (2 * BURST_SECONDS) + [said("bsc-aif")])
    assert consumer.paused == set()
    turns.count([said("lumi-aif")] * 4)
    assert consumer.paused == set(of_a)
    now[0] += 1.9
    turns.resume()
    assert consumer.paused == set(of_a)
    now[0] += 0.2
    turns.resume()
    assert consumer.paused == set()


@pytest.mark.kafka
async def test_a_flood_from_a_real_broker_is_taken_in_whole_with_pauses(
    federation: Federation, backends: Backends, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ceremony.read_directory(federation.folder)
    slow = {name: one.model_copy(update={"events_per_second": 1}) for name, one in known.members.items()}
    ceremony.write_directory(federation.folder, slow)
    monkeypatch.setattr("aifn_fedgate.domain.quota.LONGEST_WAIT_SECONDS", 0.3)
    throttled: list[float] = []
    counter = SimpleNamespace(add=lambda seconds, _: throttled.append(seconds))
    monkeypatch.setattr(telemetry.metrics, "federation_throttled", counter)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    with contextlib.suppress(Exception):
        await admin.create_topics([NewTopic(MIRRORED, 1, 1)])
    await admin.close()
    writer, facts = federation.writer("lumi-aif"), 1_000
    async with federation.gatehouse("bsc-aif", backends, kafka=kafka, fed_relays="relay-a") as house:
        async with producer(kafka) as made:
            for number in range(facts):
                await made.send(MIRRORED, writer.next(capacity(idle=number)).raw, b"lumi-aif/lumi-g")
        hearing = asyncio.create_task(mirrored.hear(house.db, house.door))
        try:
            accepted = "SELECT count(*) = $1 FROM journal WHERE origin = 'lumi-aif' AND verdict = 'accepted'"

            async def all_of_them() -> bool:
                return bool(await house.db.fetchval(accepted, facts))

            await until(all_of_them, seconds=120, what="all facts are taken in")
        finally:
            hearing.cancel()
            await asyncio.wait([hearing])
    assert throttled
