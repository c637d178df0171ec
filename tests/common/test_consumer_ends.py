"""A consumer whose client gives up after an unexpected fault: that fault is none, and what ends is started again."""

from typing import Any

import pytest
from aifn_common import broker
from aifn_common.database import Database
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.group import HeartbeatRequest

from tests.common.test_real_broker import joined, placed, used, worker
from tests.support.kafka import send
from tests.support.victim import Behaviour, effects, make_victim
from tests.support.waiting import until

GROUPS = 2
LOST = "Unexpected error in coordinator routine"


@pytest.mark.kafka
async def test_a_connection_that_uvloop_has_closed_costs_no_consumer_its_group(
    kafka: str, url: str, victim_db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hit = 0
    real = AIOKafkaConnection.send

    def closed(self: Any, request: Any, expect_response: bool = True) -> Any:
        nonlocal hit
        if isinstance(request, HeartbeatRequest) and hit < GROUPS:
            hit += 1
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        return real(self, request, expect_response)

    async with worker(make_victim(), url, kafka, kafka_heartbeat_seconds=0.2) as one:
        await until(lambda: joined(one, GROUPS))
        monkeypatch.setattr(AIOKafkaConnection, "send", closed)
        await until(lambda: hit == GROUPS)
        await send(kafka, placed("a"))
        await until(lambda: _done(victim_db, "a"))
    assert LOST not in caplog.text


@pytest.mark.kafka
async def test_a_consumer_that_its_client_has_given_up_is_started_again_and_hears_what_it_missed(
    kafka: str, url: str, victim_db: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hit = 0
    real = GroupCoordinator.ensure_coordinator_known

    async def strange(self: Any) -> None:
        nonlocal hit
        if hit < GROUPS:
            hit += 1
            raise ZeroDivisionError("nobody thought of this")
        await real(self)

    does = Behaviour()
    async with worker(make_victim(does), url, kafka) as one:
        await until(lambda: joined(one, GROUPS))
        monkeypatch.setattr(GroupCoordinator, "ensure_coordinator_known", strange)
        for _, consumer in one._consumers():
            consumer._coordinator.coordinator_dead()
        await until(lambda: caplog.text.count(LOST) == GROUPS)
        given_up = {id(consumer) for _, consumer in one._consumers()}
        await send(kafka, placed("a"), used("b"))
        await until(lambda: _done(victim_db, "a"), seconds=60)
        await until(lambda: ["b"] in does.batches, seconds=60)
        # Those that hear in batches too: a consumer without its group still fetches, until others fetch the same.
        await until(lambda: not given_up & {id(consumer) for _, consumer in one._consumers()}, seconds=60)
        await until(lambda: joined(one, GROUPS), seconds=60)


async def test_a_closed_transport_is_reported_as_a_lost_connection() -> None:
    class Closed:
        def write(self, _: bytes) -> None:
            raise RuntimeError("the handler is closed")

        def close(self) -> None:
            """It is closed already."""

    made = broker.Connection("127.0.0.1", 9, request_timeout_ms=1000)
    made._writer = Closed()
    made._versions = {HeartbeatRequest.API_KEY: (0, 1)}
    with pytest.raises(KafkaConnectionError, match="handler is closed"):
        made.send(HeartbeatRequest("group", 1, "member"))
    assert not made.connected()


async def _done(db: Database, name: str) -> bool:
    return name in await effects(db)
