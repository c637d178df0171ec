"""The broker over TLS: with the right certificates everything works; else one line says which is wrong."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aifn_common.broker import KNOCK_AGAIN_MS, connection_of, reason_away, tls_context
from aifn_common.database import Database, transaction
from aifn_common.outbox import announce
from aifn_common.service import CannotStart, Worker, migrate_service
from aifn_common.settings import ServiceSettings, WrongSetting
from aifn_common.topics import BrokerAway, prepare_topics
from aifn_events.catalog import TOPICS
from aifn_events.placement import JobPlaced
from aifn_local.kafka import LocalKafka, MutualTls
from aifn_local.processes import free_port
from aiokafka.admin import AIOKafkaAdminClient

from tests.support.certificates import Authority
from tests.support.settings import settings
from tests.support.victim import VictimSettings, effects, make_victim
from tests.support.waiting import until

Files = tuple[Path, Path]


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@asynccontextmanager
async def listening(files: Files, *, wants: Path | None = None) -> AsyncIterator[str]:
    """A listener that shows a certificate, and wants one if `wants` names an authority; all that TLS needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    if wants is not None:
        context.load_verify_locations(wants)
        context.verify_mode = ssl.CERT_REQUIRED

    async def nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3)
        writer.close()

    server = await asyncio.start_server(nothing, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def over_tls(kafka: str, ca: Path, own: Files | None = None) -> ServiceSettings:
    own_files = {"kafka_cert_file": str(own[0]), "kafka_key_file": str(own[1])} if own else {}
    return settings(ServiceSettings, kafka=kafka, kafka_ca_file=str(ca), **own_files)


async def test_a_broker_with_the_right_certificate_is_reached_and_in_clear_none_is_looked_at(ours: Authority) -> None:
    async with listening(ours.sign("kafka")) as kafka:
        assert await reason_away(over_tls(kafka, ours.ca)) is None
        assert await reason_away(settings(ServiceSettings, kafka=kafka)) is None
        assert connection_of(settings(ServiceSettings, kafka=kafka)) == {
            "bootstrap_servers": kafka,
            "retry_backoff_ms": KNOCK_AGAIN_MS,
        }


async def test_the_wrong_authority_and_an_expired_certificate_are_told_apart_in_one_line(
    ours: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    async with listening(ours.sign("kafka")) as kafka:
        reason = await reason_away(over_tls(kafka, other.ca))
        assert reason == (
            f"{kafka}: its certificate is not accepted: unable to get local issuer certificate (see AIFN_KAFKA_CA_FILE)"
        )
    async with listening(ours.sign("old", days=-3)) as kafka:
        reason = await reason_away(over_tls(kafka, ours.ca))
        assert reason == f"{kafka}: its certificate is not accepted: certificate has expired (see AIFN_KAFKA_CA_FILE)"


async def test_a_certificate_of_our_own_that_has_expired_or_is_missing_is_thought_of(ours: Authority) -> None:
    async with listening(ours.sign("kafka"), wants=ours.ca) as kafka:
        assert await reason_away(over_tls(kafka, ours.ca, ours.sign("me"))) is None
        for own in (ours.sign("late", days=-3), None):
            reason = await reason_away(over_tls(kafka, ours.ca, own))
            assert reason == f"{kafka} hangs up: does it want another AIFN_KAFKA_CERT_FILE?"


async def test_nobody_there_and_a_name_nobody_has_are_named() -> None:
    port = free_port(None)
    reason = await reason_away(settings(ServiceSettings, kafka=f"127.0.0.1:{port},no-such-host.invalid:9092"))
    assert reason is not None
    assert f"127.0.0.1:{port}: " in reason
    assert "no-such-host.invalid:9092: " in reason


def test_files_that_are_no_certificates_stop_the_start(ours: Authority, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not a certificate\n")
    with pytest.raises(WrongSetting, match=r"^AIFN_KAFKA_CA_FILE is wrong: .*wrong: "):
        tls_context(over_tls("kafka:1", wrong))
    certificate, _ = ours.sign("me")
    _, key_of_another = ours.sign("you")
    with pytest.raises(WrongSetting, match=r"^AIFN_KAFKA_CERT_FILE is wrong: .* are no certificate and its key"):
        tls_context(over_tls("kafka:1", ours.ca, (certificate, key_of_another)))


async def test_topics_are_not_made_where_the_broker_is_not_trusted(ours: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    async with listening(ours.sign("kafka")) as kafka:
        with pytest.raises(BrokerAway, match="unable to get local issuer certificate"):
            await prepare_topics(over_tls(kafka, other.ca), patience_seconds=1)


@pytest.mark.kafka
async def test_over_mutual_tls_topics_are_made_events_are_sent_and_heard(
    url: str, victim_db: Database, ours: Authority, tmp_path: Path
) -> None:
    certificate, key = ours.sign("kafka")
    both = tmp_path / "kafka.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    broker = LocalKafka(tmp_path / "broker", heap_mb=256, security=MutualTls("kafka", both, ours.ca))
    await asyncio.to_thread(broker.prepare)
    port = free_port(None)
    pid = await asyncio.to_thread(broker.launch, port, free_port(None))
    try:
        await asyncio.to_thread(broker.wait_ready, pid, port)
        told = settings(
            VictimSettings,
            database_url=url,
            kafka=f"127.0.0.1:{port}",
            kafka_ca_file=str(ours.ca),
            kafka_cert_file=str(certificate),
            kafka_key_file=str(key),
        )
        await migrate_service(make_victim(), told)
        admin = AIOKafkaAdminClient(**connection_of(told))
        await admin.start()
        assert {topic.name for topic in TOPICS} <= set(await admin.list_topics())
        await admin.close()
        async with Worker(make_victim(), told):
            async with transaction(victim_db) as tx:
                await announce(tx, JobPlaced.example(job_id="over-tls"))
            await until(lambda: _has(victim_db, "over-tls"), seconds=40)
    finally:
        await asyncio.to_thread(broker.stop, kill=True)


async def _has(db: Database, name: str) -> bool:
    return name in await effects(db)


async def test_migrate_ends_with_69_and_the_reason_when_no_broker_takes_it(url: str, ours: Authority) -> None:
    async with listening(ours.sign("old", days=-3)) as kafka:
        told = settings(VictimSettings, database_url=url, kafka=kafka, kafka_ca_file=str(ours.ca))
        with pytest.raises(CannotStart, match=r"^AIFN_KAFKA cannot be reached: .*certificate has expired") as ended:
            await migrate_service(make_victim(), told, patience_seconds=1)
    assert ended.value.status == 69
