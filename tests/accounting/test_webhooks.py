"""Webhooks: an address proves itself, is told every charge in order, and nothing inside can be reached through one."""

import asyncio
import importlib.util
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from aifn_accounting import receivers
from aifn_accounting.actions import webhooks
from aifn_accounting.domain.webhooks import (
    MOST_FAILURES,
    ForbiddenAddress,
    choose_address,
    is_public,
    pause_seconds,
    read_target,
    secret_of,
)
from aifn_accounting.receivers import Letter, NotReached, Receivers, sign
from aifn_accounting.settings import AccountingSettings
from aifn_common.database import Database, transaction
from hypothesis import given
from hypothesis import strategies as st

from tests.accounting.make import charge, grant, used
from tests.support.http import Asker

KEY = "a-key-of-webhooks"
PI = "7c1d@myaccessid"
EXAMPLE = Path(__file__).parents[2] / "docs/examples/usage-events/webhook_receiver.py"
PUBLIC = "https://portal.example.eu/aifn"


def _example() -> Any:
    found = importlib.util.spec_from_file_location("webhook_receiver", EXAMPLE)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


RECEIVER = _example()


@pytest.fixture
def settings(settings: AccountingSettings) -> AccountingSettings:
    """Webhooks are on, and may lead to this machine."""
    from pydantic import SecretStr

    return settings.model_copy(
        update={"webhook_key": SecretStr(KEY), "webhook_private_addresses": True, "webhook_timeout_seconds": 2.0}
    )


@dataclass
class Portal:
    """A receiver that checks each letter as the example of the documentation does; `say` may change its answer."""

    url: str = ""
    secret: str = ""
    letters: list[dict[str, Any]] = field(default_factory=list)
    forged: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    say: Callable[[dict[str, Any]], tuple[int, dict[str, Any], str]] | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers["content-length"]))
        self.hosts.append(headers["host"])
        try:
            RECEIVER.check(headers, self.url, body, self.secret, now=time.time())
        except RECEIVER.Forged as wrong:
            self.forged.append(str(wrong))
        letter = json.loads(body)
        self.letters.append(letter)
        status, said, more = self.say(letter) if self.say else (200, RECEIVER.answer(letter), "")
        text = json.dumps(said).encode()
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(text)}\r\n{more}\r\n".encode() + text)
        writer.close()

    @property
    def items(self) -> list[dict[str, Any]]:
        """All charges that came, in the order in which they came."""
        return [item for letter in self.letters if letter["kind"] == "usage" for item in letter["items"]]


@asynccontextmanager
async def a_portal() -> AsyncIterator[Portal]:
    portal = Portal()
    server = await asyncio.start_server(portal.serve, "127.0.0.1", 0)
    portal.url = f"http://localhost:{server.sockets[0].getsockname()[1]}/hook?of=lumi"
    try:
        yield portal
    finally:
        server.close()
        await server.wait_closed()


async def register(ask: Asker, portal: Portal, **words: Any) -> dict[str, Any]:
    answer = await ask.post("/v1/webhooks", json={"url": portal.url, **words})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    portal.secret = made["secret"]
    return made


async def deliver(db: Database, settings: AccountingSettings, rounds: int = 2) -> None:
    """As the worker's clock would, without waiting for pauses."""
    for _ in range(rounds):
        await db.execute("UPDATE webhook SET next_attempt_at = now()")
        await webhooks.deliver_due(db, settings)


async def state(ask: Asker, made: dict[str, Any]) -> tuple[str, str]:
    found = (await ask.get(f"/v1/webhooks/{made['webhook_id']}")).json()
    return found["state"], found["state_reason"]


async def test_who_repeats_the_challenge_is_told_every_charge_once_and_in_order_signed_for_the_shared_secret(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    await charge(db, settings, used("j1", 600), used("j2", 700))
    async with a_portal() as portal:
        made = await register(ask, portal)
        assert await state(ask, made) == ("unconfirmed", "waits for the answer to its challenge")
        await deliver(db, settings)
        await charge(db, settings, used("j1", 900, revision=1))
        await deliver(db, settings, 3)
        assert portal.forged == []
        assert [one["kind"] for one in portal.letters] == ["challenge", "usage", "usage"]
        assert [(one["job_id"], one["revision"], one["amount"]) for one in portal.items] == [
            ("j1", 0, 600),
            ("j2", 0, 700),
            ("j1", 1, 900),
        ]
        assert await state(ask, made) == ("active", "repeated its challenge")
    log = (await ask.get(f"/v1/webhooks/{made['webhook_id']}/deliveries")).json()["items"]
    assert [(one["kind"], one["records"], one["status"], one["outcome"]) for one in log] == [
        ("usage", 1, 200, "accepted"),
        ("usage", 2, 200, "accepted"),
        ("challenge", 0, 200, "accepted"),
    ]
    assert log[0]["address"] == "127.0.0.1"


async def test_nothing_is_told_to_an_address_that_does_not_repeat_its_challenge(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    await charge(db, settings, used())
    async with a_portal() as portal:
        portal.say = lambda _: (200, {"challenge": "of somebody else"}, "")
        made = await register(ask, portal)
        await deliver(db, settings, 4)
        assert {one["kind"] for one in portal.letters} == {"challenge"}
        assert (await state(ask, made))[0] == "unconfirmed"
    log = (await ask.get(f"/v1/webhooks/{made['webhook_id']}/deliveries")).json()["items"]
    assert [(one["attempt"], one["outcome"]) for one in log] == [
        (4 - back, "did not repeat the challenge") for back in range(4)
    ]


async def test_a_failed_letter_is_sent_again_with_growing_pauses_until_it_is_paused_and_resumes_without_loss(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    async with a_portal() as portal:
        made = await register(ask, portal)
        await deliver(db, settings)
        portal.say = lambda _: (503, {}, "")
        await charge(db, settings, used())
        await webhooks.deliver_due(db, settings)
        first = await db.fetchval("SELECT next_attempt_at - now() < interval '6 s' FROM webhook")
        sent = len(portal.letters)
        await webhooks.deliver_due(db, settings)
        assert first is True
        assert len(portal.letters) == sent, "it is left alone during its pause"
        await db.execute("UPDATE webhook SET failures = $1", MOST_FAILURES - 1)
        await deliver(db, settings, 3)
        assert (await state(ask, made))[0] == "paused"
        assert len(portal.letters) == sent + 1
        portal.say = None
        portal.letters.clear()
        assert (await ask.post(f"/v1/webhooks/{made['webhook_id']}/resume")).json()["state"] == "active"
        await deliver(db, settings)
        assert [one["job_id"] for one in portal.items] == ["j1"]


async def test_a_replay_tells_everything_again_from_the_first_record_or_from_a_place(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    for job in ("j1", "j2", "j3"):
        await charge(db, settings, used(job))
    async with a_portal() as portal:
        made = await register(ask, portal)
        await deliver(db, settings)
        page = (await ask.get("/v1/usage-events", params={"limit": 2})).json()
        portal.letters.clear()
        again = f"/v1/webhooks/{made['webhook_id']}/replay"
        assert (await ask.post(again, json={"after": None})).status_code == 200
        await deliver(db, settings, 1)
        assert (await ask.post(again, json={"after": page["next"]})).status_code == 200
        await deliver(db, settings, 1)
        assert [one["job_id"] for one in portal.items] == ["j1", "j2", "j3", "j3"]
        assert (await ask.post(again, json={"after": "not a cursor"})).status_code == 422


async def test_a_webhook_of_a_project_is_told_of_that_project_only_and_of_nothing_once_its_owner_has_left(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db, "p1")
    await grant(db, "p2", principal_investigator="other@example")
    await charge(db, settings, used("j1", project="p1"), used("j2", project="p2"))
    ask.as_("pi", subject=PI)
    async with a_portal() as portal:
        refused = await ask.post("/v1/webhooks", json={"url": portal.url, "project_id": "p2"})
        whole = await ask.post("/v1/webhooks", json={"url": portal.url})
        assert (refused.status_code, whole.status_code) == (403, 403)
        made = await register(ask, portal, project_id="p1")
        await deliver(db, settings)
        assert [one["job_id"] for one in portal.items] == ["j1"]
        await db.execute("UPDATE membership SET subject = 'successor@example' WHERE subject = $1", PI)
        await charge(db, settings, used("j3", project="p1"))
        await deliver(db, settings)
        assert [one["job_id"] for one in portal.items] == ["j1"]
    ask.as_("allocation-manager")
    assert (await state(ask, made))[0] == "revoked"


async def test_a_new_secret_signs_the_next_letters_and_must_be_confirmed(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    async with a_portal() as portal:
        made = await register(ask, portal)
        await deliver(db, settings)
        renewed = (await ask.post(f"/v1/webhooks/{made['webhook_id']}/secret")).json()
        assert renewed["secret"] != made["secret"]
        assert renewed["state"] == "unconfirmed"
        await deliver(db, settings)
        assert portal.forged == ["the signature is not that of the shared secret"]
        portal.secret = renewed["secret"]
        await deliver(db, settings)
        assert (await state(ask, made))[0] == "active"
        assert made["secret"] not in str(await db.fetch("SELECT * FROM webhook"))
        assert (await ask.delete(f"/v1/webhooks/{made['webhook_id']}")).status_code == 204
        assert (await ask.get(f"/v1/webhooks/{made['webhook_id']}")).status_code == 404


async def test_an_endless_or_silent_receiver_costs_one_bounded_call_and_others_are_told_meanwhile(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    quick = settings.model_copy(update={"webhook_timeout_seconds": 0.3})

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)

    servers = [await asyncio.start_server(one, "127.0.0.1", 0) for one in (silent, endless)]
    try:
        for server in servers:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            assert (await ask.post("/v1/webhooks", json={"url": url})).status_code == 201
        async with a_portal() as portal:
            await register(ask, portal)
            await deliver(db, quick)
            assert [one["kind"] for one in portal.letters] == ["challenge"]
    finally:
        for server in servers:
            server.close()
    outcomes = {row["outcome"] for row in await db.fetch("SELECT outcome FROM webhook_delivery")}
    assert outcomes == {"accepted", "no answer within 0.3 s", "did not repeat the challenge"}


async def test_a_redirect_is_not_followed(db: Database, ask: Asker, settings: AccountingSettings) -> None:
    await grant(db)
    async with a_portal() as inside, a_portal() as portal:
        portal.say = lambda _: (307, {}, f"location: {inside.url}\r\n")
        await register(ask, portal)
        await deliver(db, settings)
        assert inside.letters == []
        assert "redirects are not followed" in await db.fetchval("SELECT outcome FROM webhook_delivery LIMIT 1")


async def test_a_name_is_looked_up_once_and_the_call_goes_to_the_address_that_was_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    async def found(target: Any) -> list[str]:
        asked.append(target.host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    monkeypatch.setattr(receivers, "_addresses_of", found)
    async with a_portal() as portal:
        portal.url = portal.url.replace("localhost", "portal.example.eu")
        portal.secret = "s" * 64
        caller = Receivers(allow_private=True, timeout_seconds=2)
        try:
            body = json.dumps({"kind": "challenge", "challenge": "c"}).encode()
            answer = await caller.send(Letter(portal.url, "hook-1", portal.secret, body))
        finally:
            await caller.close()
        assert (answer.status, answer.address, asked) == (200, "127.0.0.1", ["portal.example.eu"])
        assert portal.hosts[0].startswith("portal.example.eu:")
        assert portal.forged == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
async def test_this_machine_is_not_called_by_any_of_its_names(host: str) -> None:
    caller = Receivers(allow_private=False, timeout_seconds=5)
    try:
        with pytest.raises((ForbiddenAddress, NotReached), match=r"public Internet|looked up"):
            await caller.send(Letter(f"https://{host}/", "hook-1", "s", b"{}"))
    finally:
        await caller.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://portal.example.eu/",
        "ftp://portal.example.eu/",
        "https://user@portal.example.eu/",
        "https://portal.example.eu@127.0.0.1/",
        "https://portal.example.eu/#part",
        "https:///path",
        "https://portal.example.eu:0/",
        "https://portal.example.eu:99999/",
        "https://portal.example.eu\\@127.0.0.1/",
        "https://porta l.example.eu/",
        "https://[::1",
        "https://[fe80::1%25eth0]/",
        "javascript:alert(1)",
        "https://pörtal.example.eu/",
        "https://portal.example.eu/\n",
    ],
)
async def test_an_address_that_may_not_be_called_is_refused_at_registration(
    db: Database, ask: Asker, settings: AccountingSettings, url: str
) -> None:
    with pytest.raises(ForbiddenAddress):
        read_target(url, allow_private=False)
    strict = settings.model_copy(update={"webhook_private_addresses": False})
    async with transaction(db) as tx:
        with pytest.raises(ForbiddenAddress):
            await webhooks.register(
                tx, strict, owner="a", through="role", project_id=None, factory_id="lumi-aif", url=url
            )


@given(st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="169.254.0.0/16") | st.ip_addresses(v=4))
def test_an_ipv4_address_hidden_in_an_ipv6_one_is_judged_as_itself(address: IPv4Address) -> None:
    number = int(address)
    hidden = [
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x0064_FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80)),
    ]
    assert {is_public(str(one)) for one in hidden} == {is_public(str(address))}


@given(st.lists(st.sampled_from(["193.166.1.1", "2001:14b8::1", "10.0.0.1", "::1", "100.64.0.1", "0.0.0.0"])))  # noqa: S104
def test_one_address_that_is_not_public_makes_all_of_a_name_suspect(found: list[str]) -> None:
    if found and all(is_public(one) for one in found):
        assert choose_address(found, allow_private=False) == found[0]
    else:
        with pytest.raises(ForbiddenAddress):
            choose_address(found, allow_private=False)


def test_the_addresses_of_laboratories_clouds_and_neighbours_are_not_public() -> None:
    inside = ("169.254.169.254", "192.168.1.1", "172.16.0.1", "fd00::1", "fe80::1", "224.0.0.1", "255.255.255.255")
    assert not any(is_public(one) for one in inside)


@given(st.integers(1, 10_000))
def test_pauses_grow_and_have_a_bound(failures: int) -> None:
    assert 5 <= pause_seconds(failures) <= pause_seconds(failures + 1) <= 3600


@given(st.binary(max_size=300), st.integers(0, 10_000))
def test_a_letter_with_one_byte_changed_is_recognised_as_forged(body: bytes, where: int) -> None:
    letter = Letter(PUBLIC, "hook-1", secret_of(KEY, "hook-1", 0), body)
    headers = {"content-type": "application/json", **sign(letter)}
    RECEIVER.check(headers, PUBLIC, body, letter.secret, now=time.time())
    forged = bytearray(body or b"x")
    forged[where % len(forged)] ^= 1
    for url, said, secret, now in (
        (PUBLIC, bytes(forged), letter.secret, time.time()),
        (PUBLIC + "2", body, letter.secret, time.time()),
        (PUBLIC, body, secret_of(KEY, "hook-2", 0), time.time()),
        (PUBLIC, body, letter.secret, time.time() + 3600),
    ):
        with pytest.raises(RECEIVER.Forged):
            RECEIVER.check(headers, url, said, secret, now=now)


async def test_without_a_key_webhooks_are_switched_off(db: Database, ask: Asker, settings: AccountingSettings) -> None:
    from pydantic import SecretStr

    off = settings.model_copy(update={"webhook_key": SecretStr("")})
    async with transaction(db) as tx:
        with pytest.raises(webhooks.NoWebhooks):
            await webhooks.register(
                tx, off, owner="a", through="role", project_id=None, factory_id="lumi-aif", url=PUBLIC
            )
    await webhooks.deliver_due(db, off)


async def test_somebody_has_a_bounded_number_of_webhooks(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    for _ in range(webhooks.MOST_OF_ONE_OWNER):
        assert (await ask.post("/v1/webhooks", json={"url": PUBLIC})).status_code == 201
    refused = await ask.post("/v1/webhooks", json={"url": PUBLIC})
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_webhooks")
