"""The examples for outside subscribers run as they are written, against a broker with TLS and rules, and over HTTP."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from aifn_accounting.app import service
from aifn_accounting.settings import AccountingSettings
from aifn_common.answering import make_api
from aifn_common.database import Database
from aifn_events.usage import UsageCharged
from aifn_local.kafka import LocalKafka, MutualTls
from aifn_local.processes import free_port
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.helpers import create_ssl_context

from tests.accounting.make import charge, grant, used
from tests.support.certificates import Authority
from tests.support.http import ISSUER, validator
from tests.support.kafka import message
from tests.support.waiting import until

EXAMPLES = Path(__file__).parents[2] / "docs/examples/usage-events"
TOPIC = UsageCharged.topic
CHARGES = [
    UsageCharged.example(local_job_id="1", amount=600),
    UsageCharged.example(local_job_id="2", amount=700),
    UsageCharged.example(local_job_id="1", amount=500, revision=1),
    UsageCharged.example(local_job_id="1", amount=600),
]


@dataclass(frozen=True)
class Guarded:
    """A broker that wants certificates and has rules: `portal` may read one topic with groups that begin `portal-`."""

    address: str
    ca: Path
    files: dict[str, tuple[Path, Path]]

    def client(self, name: str) -> dict[str, Any]:
        """How somebody connects."""
        certificate, key = self.files[name]
        context = create_ssl_context(cafile=str(self.ca), certfile=str(certificate), keyfile=str(key))
        return {"bootstrap_servers": self.address, "security_protocol": "SSL", "ssl_context": context}

    def consume(self, name: str, group: str, *more: str) -> "subprocess.CompletedProcess[str]":
        """Run the example in Python as somebody."""
        certificate, key = self.files[name]
        command = [sys.executable, str(EXAMPLES / "consume.py"), "--kafka", self.address, "--ca", str(self.ca)]
        command += ["--cert", str(certificate), "--key", str(key), "--group", group, *more]
        return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The broker, with some charges on it, and the rules that the documentation tells an operator to make."""
    folder = tmp_path_factory.mktemp("guarded")
    ours = Authority(folder, "ours")
    files = {name: ours.sign(name) for name in ("kafka", "portal", "stranger")}
    both = folder / "kafka.pem"
    both.write_bytes(files["kafka"][1].read_bytes() + files["kafka"][0].read_bytes())
    broker = LocalKafka(folder / "broker", heap_mb=256, security=MutualTls("kafka", both, ours.ca))
    broker.prepare()
    port = free_port(None)
    pid = broker.launch(port, free_port(None))
    try:
        broker.wait_ready(pid, port, patience=240)
        made = Guarded(f"127.0.0.1:{port}", ours.ca, files)
        told = folder / "admin.properties"
        told.write_text(
            "security.protocol=SSL\nssl.keystore.type=PEM\nssl.truststore.type=PEM\n"
            f"ssl.keystore.location={both}\nssl.truststore.location={ours.ca}\n"
        )
        acl = [*broker.program.command(log=False), "org.apache.kafka.tools.AclCommand"]
        acl += ["--bootstrap-server", made.address, "--command-config", str(told)]
        for rule in (
            ["--topic", TOPIC],
            ["--group", "portal-", "--resource-pattern-type", "prefixed"],
        ):
            allow = ["--add", "--allow-principal", "User:portal", "--operation", "Read"]
            subprocess.run([*acl, *allow, *rule], check=True, capture_output=True, timeout=250)
        asyncio.run(_fill(made))
        yield made
    finally:
        broker.stop(kill=True)


async def _fill(made: Guarded) -> None:
    admin = AIOKafkaAdminClient(**made.client("kafka"))
    await admin.start()
    await admin.create_topics([NewTopic(name, 3, 1) for name in (TOPIC, "aifn-usage-reported-v1")])
    await admin.close()
    producer = AIOKafkaProducer(**made.client("kafka"))
    await producer.start()
    for event in CHARGES:
        await producer.send_and_wait(**message(event))
    await producer.stop()


def shown(text: str) -> list[tuple[str, int, int]]:
    charges = [json.loads(line) for line in text.splitlines()]
    return [(one["local_job_id"], one["revision"], one["amount"]) for one in charges]


@pytest.mark.kafka
def test_a_subscriber_with_its_own_certificate_and_group_reads_every_charge_and_a_copy_counts_once(
    guarded: Guarded,
) -> None:
    done = guarded.consume("portal", "portal-ledger", "--count", "4")
    assert done.returncode == 0, done.stderr
    assert shown(done.stdout) == [("1", 0, 600), ("2", 0, 700), ("1", 1, 500)]
    again = guarded.consume("portal", "portal-again", "--count", "4")
    assert again.stdout == done.stdout, "a new group reads again from the oldest message that is kept"


@pytest.mark.kafka
@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed: apt install kcat")
def test_kcat_reads_every_charge(guarded: Guarded) -> None:
    certificate, key = guarded.files["portal"]
    env = {"KAFKA": guarded.address, "CA": str(guarded.ca), "CERT": str(certificate), "KEY": str(key)}
    done = subprocess.run(
        ["sh", str(EXAMPLES / "consume-kcat.sh")],
        env=os.environ | env | {"GROUP": "portal-kcat", "COUNT": "4"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert shown(done.stdout) == [(one.local_job_id, one.revision, one.amount) for one in CHARGES]


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("name", "group", "more", "refusal"),
    [
        ("portal", "somebody-else", (), "GroupAuthorizationFailedError"),
        ("portal", "portal-x", ("--topic", "aifn-usage-reported-v1"), "TopicAuthorizationFailedError"),
        ("stranger", "portal-x", (), "AuthorizationFailedError"),
    ],
)
def test_nobody_reads_with_a_group_or_a_topic_or_a_certificate_that_is_not_theirs(
    guarded: Guarded, name: str, group: str, more: tuple[str, ...], refusal: str
) -> None:
    done = guarded.consume(name, group, "--count", "1", *more)
    assert done.returncode != 0
    assert refusal in done.stderr
    assert done.stdout == ""


@pytest.mark.kafka
async def test_a_subscriber_writes_nothing(guarded: Guarded) -> None:
    producer = AIOKafkaProducer(**guarded.client("portal"))
    await producer.start()
    try:
        with pytest.raises(TopicAuthorizationFailedError):
            await producer.send_and_wait(**message(CHARGES[0]))
    finally:
        await producer.stop()


@asynccontextmanager
async def serving(db: Database, settings: AccountingSettings) -> Any:
    """The API of accounting on a real port."""
    app = make_api(service, settings, validator=validator(service))
    app.router.lifespan_context = _no_life
    app.state.db, app.state.validator = db, validator(service)
    config = uvicorn.Config(app, host="127.0.0.1", port=free_port(None), log_config=None)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    try:
        await until(lambda: _true(server.started), seconds=20)
        yield f"http://127.0.0.1:{config.port}"
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def _no_life(_: object) -> Any:
    yield


async def _true(value: bool) -> bool:
    return value


async def test_pages_are_read_from_the_first_record_on_and_later_only_what_is_new(
    db: Database, settings: AccountingSettings, tmp_path: Path
) -> None:
    await grant(db)
    await charge(db, settings, used("j1", 600), used("j2", 700))
    token = ISSUER.token("allocation-manager")

    async def read(base: str) -> list[str]:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, str(EXAMPLES / "read_pages.py"), base, str(tmp_path / "place.txt")],
            env=os.environ | {"AIFN_TOKEN": token, "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return [json.loads(line)["job_id"] for line in done.stdout.splitlines()]

    async with serving(db, settings) as base:
        assert await read(base) == ["j1", "j2"]
        assert await read(base) == []
        await charge(db, settings, used("j3", 800))
        assert await read(base) == ["j3"]
