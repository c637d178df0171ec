"""Two hops on real brokers with mutual TLS and rules in force: what arrives, what is refused, what survives."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aifn_local import processes
from aifn_local.federation.certificates import Authority
from aifn_local.federation.grants import enforce, in_force, tls
from aifn_local.federation.members import Member
from aifn_local.federation.mirror import RelayAccess
from aifn_local.federation.rules import Operation, Resource, Rule, rules
from aifn_local.federation.transport import Transport
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)

from tests.federation_transport.conftest import BSC, LUMI

pytestmark = pytest.mark.kafka

FACTS = "aifn-out-capacity-v1"
PATIENCE_SECONDS = 60


@asynccontextmanager
async def client(kind: Any, relay: RelayAccess, *, pull: bool = False, **more: Any) -> AsyncIterator[Any]:
    """A client of a relay with one of a member's two credentials."""
    context = tls(relay, pull=pull)
    made = kind(bootstrap_servers=relay.bootstrap, security_protocol="SSL", ssl_context=context, **more)
    await made.start()
    try:
        yield made
    finally:
        await (made.close() if kind is AIOKafkaAdminClient else made.stop())


async def make_topic(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        if topic not in await admin.list_topics():
            await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"retention.ms": "3024000000"})])
    finally:
        await admin.close()


async def tell(bootstrap: str, topic: str, *values: bytes) -> None:
    await make_topic(bootstrap, topic)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        for value in values:
            await producer.send_and_wait(topic, value, key=b"bsc-aif/acc", headers=[("ce_id", b"1"), ("empty", b"")])
    finally:
        await producer.stop()


async def hear(bootstrap: str, topic: str, count: int) -> list[ConsumerRecord[bytes, bytes]]:
    """The first records of a topic that will be there."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", metadata_max_age_ms=500)
    await consumer.start()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while topic not in await consumer.topics():  # noqa: ASYNC110
                await asyncio.sleep(0.2)
            consumer.assign([TopicPartition(topic, 0)])
            await consumer.seek_to_beginning()
            return [await consumer.getone() for _ in range(count)]
    finally:
        await consumer.stop()


async def topics_of(bootstrap: str) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return set(await admin.list_topics())
    finally:
        await admin.close()


async def test_a_fact_arrives_over_both_relays_byte_for_byte_with_key_and_headers(transport: Transport) -> None:
    said = [bytes(range(256)), b"two", "drei ü".encode()]
    await tell(transport.brokers[BSC], FACTS, *said)
    for alias in transport.relays:
        heard = await hear(transport.brokers[LUMI], f"{alias}.bsc-aif.{FACTS}", 3)
        assert [record.value for record in heard] == said
        assert {record.key for record in heard} == {b"bsc-aif/acc"}
        assert list(heard[0].headers) == [("ce_id", b"1"), ("empty", b"")]


async def test_a_topics_own_settings_travel_with_it(transport: Transport) -> None:
    await tell(transport.brokers[BSC], FACTS, b"x")
    name = f"relay-a.bsc-aif.{FACTS}"
    await hear(transport.brokers[LUMI], name, 1)
    admin = AIOKafkaAdminClient(bootstrap_servers=transport.brokers[LUMI])
    await admin.start()
    try:
        [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)])
        values = {entry[0]: entry[1] for entry in answer.resources[0][4]}
        assert values["retention.ms"] == "3024000000"
    finally:
        await admin.close()


async def test_nothing_comes_back_to_its_owner_and_nothing_internal_travels(transport: Transport) -> None:
    await tell(transport.brokers[LUMI], "aifn-job-placed-v1", b"inside")
    await tell(transport.brokers[LUMI], FACTS, b"outside")
    await hear(transport.brokers[BSC], f"relay-b.lumi-aif.{FACTS}", 1)
    at_home, abroad = await topics_of(transport.brokers[LUMI]), await topics_of(transport.brokers[BSC])
    assert not [name for name in at_home if ".lumi-aif." in name]
    assert not [name for name in abroad if "job-placed" in name]


async def test_the_rules_in_force_are_those_of_the_member_list(transport: Transport) -> None:
    for alias, relay in transport.relays.items():
        port = int(transport.bootstrap(alias).rpartition(":")[2])
        assert await in_force(relay.administrator(port)) == rules(transport.members)


async def test_a_rule_that_is_no_longer_wanted_goes(transport: Transport) -> None:
    port = int(transport.bootstrap("relay-a").rpartition(":")[2])
    administrator = transport.relays["relay-a"].administrator(port)
    wanted = rules(transport.members)
    joined = rules((*transport.members, Member("l-aif", "factory")))
    await enforce(administrator, joined)
    assert await in_force(administrator) == joined
    await enforce(administrator, wanted)
    assert await in_force(administrator) == wanted


async def _write(relay: RelayAccess, topic: str, *, pull: bool = False) -> None:
    async with client(AIOKafkaProducer, relay, pull=pull, request_timeout_ms=4_000) as producer:
        await producer.send_and_wait(topic, b"forged")


async def _create(relay: RelayAccess, topic: str) -> None:
    async with client(AIOKafkaAdminClient, relay) as admin:
        _raise((await admin.create_topics([NewTopic(topic, 1, 1)])).topic_errors)


async def _delete(relay: RelayAccess, topic: str) -> None:
    async with client(AIOKafkaAdminClient, relay) as admin:
        _raise((await admin.delete_topics([topic])).topic_error_codes)


async def _configure(relay: RelayAccess, topic: str) -> None:
    async with client(AIOKafkaAdminClient, relay) as admin:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"retention.ms": "1"})
        for answer in await admin.alter_configs([resource]):
            _raise([(topic, code) for code, *_ in answer.resources])


async def _rule(relay: RelayAccess, topic: str) -> None:
    await enforce(relay, {Rule("bsc-aif.push", Operation.WRITE, Resource.TOPIC, topic)})


def _raise(errors: Any) -> None:
    for _topic, code, *_ in errors:
        if code:
            raise for_code(code)


STEALS: dict[str, Callable[[RelayAccess, str], Awaitable[None]]] = {
    "write": _write,
    "create": _create,
    "delete": _delete,
    "configure": _configure,
}


@pytest.mark.parametrize("topic", [f"lumi-aif.{FACTS}", FACTS, "bsc-aif", "bsc-aifx.y", "lumi-aif.mirror-offsets"])
@pytest.mark.parametrize("deed", STEALS)
async def test_a_stolen_credential_can_do_nothing_outside_its_own_prefix(
    transport: Transport, deed: str, topic: str
) -> None:
    await tell(transport.brokers[LUMI], FACTS, b"genuine")
    await hear(transport.brokers[BSC], f"relay-a.lumi-aif.{FACTS}", 1)
    with pytest.raises(TopicAuthorizationFailedError):
        await STEALS[deed](transport.access(BSC, "relay-a"), topic)


@pytest.mark.parametrize("deed", ["delete", "configure"])
async def test_a_stolen_credential_cannot_take_back_what_its_owner_said(transport: Transport, deed: str) -> None:
    await tell(transport.brokers[BSC], FACTS, b"said")
    await hear(transport.brokers[LUMI], f"relay-a.bsc-aif.{FACTS}", 1)
    with pytest.raises(TopicAuthorizationFailedError):
        await STEALS[deed](transport.access(BSC, "relay-a"), f"bsc-aif.{FACTS}")


async def test_a_stolen_credential_cannot_change_the_rules(transport: Transport) -> None:
    with pytest.raises(Exception, match=ClusterAuthorizationFailedError.__name__):
        await _rule(transport.access(BSC, "relay-a"), "lumi-aif.")
    port = int(transport.bootstrap("relay-a").rpartition(":")[2])
    assert await in_force(transport.relays["relay-a"].administrator(port)) == rules(transport.members)


async def test_the_credential_that_reads_writes_nothing_and_does_not_see_its_own_facts(transport: Transport) -> None:
    await tell(transport.brokers[BSC], FACTS, b"x")
    await tell(transport.brokers[LUMI], FACTS, b"x")
    await hear(transport.brokers[LUMI], f"relay-a.bsc-aif.{FACTS}", 1)
    await hear(transport.brokers[BSC], f"relay-a.lumi-aif.{FACTS}", 1)
    access = transport.access(BSC, "relay-a")
    with pytest.raises(TopicAuthorizationFailedError):
        await _write(access, f"bsc-aif.{FACTS}", pull=True)
    async with client(AIOKafkaAdminClient, access, pull=True) as admin:
        seen = await admin.list_topics()
    assert f"lumi-aif.{FACTS}" in seen
    assert [name for name in seen if not name.startswith("lumi-aif.aifn-out-")] == []


async def test_without_a_certificate_of_this_authority_nobody_comes_in(transport: Transport, tmp_path: Path) -> None:
    genuine = transport.access(BSC, "relay-a")
    stranger = Authority(tmp_path / "ca").vouch("bsc-aif.push")
    forged = RelayAccess("relay-a", genuine.bootstrap, genuine.authority, stranger, stranger)
    with pytest.raises(KafkaError):
        await _write(forged, f"bsc-aif.{FACTS}")
    plain = AIOKafkaProducer(bootstrap_servers=genuine.bootstrap, request_timeout_ms=3_000)
    with pytest.raises(KafkaConnectionError):
        await plain.start()
    await plain.stop()


async def test_with_one_relay_gone_facts_arrive_by_the_other_and_later_by_both(transport: Transport) -> None:
    topic = "aifn-out-skills-v1"
    await tell(transport.brokers[BSC], topic, b"1")
    await hear(transport.brokers[LUMI], f"relay-a.bsc-aif.{topic}", 1)
    await asyncio.to_thread(transport.stop_relay, "relay-a")
    await tell(transport.brokers[BSC], topic, b"2", b"3")
    by_b = await hear(transport.brokers[LUMI], f"relay-b.bsc-aif.{topic}", 3)
    assert [record.value for record in by_b] == [b"1", b"2", b"3"]
    # A mirror that is started now does without the relay, and is started anew when that comes back.
    await asyncio.to_thread(transport.cut_off, LUMI)
    await asyncio.to_thread(transport.reconnect, LUMI)
    assert transport.mirrors[LUMI.id].relays() == ["relay-b"]
    await asyncio.to_thread(transport.return_relay, "relay-a")
    assert transport.mirrors[LUMI.id].relays() == ["relay-a", "relay-b"]
    by_a = await hear(transport.brokers[LUMI], f"relay-a.bsc-aif.{topic}", 3)
    assert {record.value for record in by_a} >= {b"1", b"2"}


async def test_a_member_cut_off_from_both_relays_says_everything_when_it_returns(transport: Transport) -> None:
    topic = "aifn-out-knowledge-v1"
    await tell(transport.brokers[BSC], topic, b"before")
    await hear(transport.brokers[LUMI], f"relay-a.bsc-aif.{topic}", 1)
    await asyncio.to_thread(transport.cut_off, BSC)
    assert not processes.carrying(transport.mirrors[BSC.id].mark)
    await tell(transport.brokers[BSC], topic, b"while away")
    await asyncio.to_thread(transport.reconnect, BSC)
    for alias in transport.relays:
        heard: set[bytes | None] = set()
        count = 2
        while b"while away" not in heard:  # a copy of what was said before may come again: at least once
            heard = {record.value for record in await hear(transport.brokers[LUMI], f"{alias}.bsc-aif.{topic}", count)}
            count += 1
        assert heard == {b"before", b"while away"}
