"""The gate to other members in a container of its own: confined like the others, it signs what its factory says."""

import asyncio
import os
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest
from aifn_local.postgres import ensure_database

from benchmarks.startup import AGAIN_TARGET_SECONDS, READY_TARGET_SECONDS
from tests.containers.conftest import Told
from tests.containers.world import CONFINED, World, image_of
from tests.federation.make import Federation
from tests.support.engine import Box
from tests.support.waiting import until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(600)]

KEYS = "/run/secrets/aifn/own"
DIRECTORY = "/etc/aifn/federation"
_SIGNED = "SELECT count(*) FROM journal WHERE origin = 'lumi-aif' AND stream = 'capacity'"
_WITHOUT_GAP = """
SELECT count(*) = max(seq) - min(seq) + 1 FROM journal WHERE origin = 'lumi-aif' AND stream = 'capacity'"""


@pytest.fixture
async def journal(world: World) -> str:
    """The gate's own database, as this machine reaches it."""
    return await ensure_database(world.factory.admin_url, "fedgate", world.factory.secret)


def gate(world: World, folder: Path, url: str) -> Box:
    """The gate, not started. Its keys are readable by its user and by nobody else, as a Secret's volume has them."""
    member = folder / "members" / world.factory.name
    for path in (member, folder / "public", *member.iterdir(), *(folder / "public").iterdir()):
        os.chown(path, 10001, 10001)
        path.chmod(0o500 if path.is_dir() else 0o400)
    parts = urlsplit(url)
    inside = urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@postgres:5432"))
    made = Box(image_of("fedgate"), **CONFINED)
    made.with_network(world.network).with_volume_mapping(str(member), KEYS, "ro")
    made.with_volume_mapping(str(folder / "public"), DIRECTORY, "ro")
    return made.with_envs(
        AIFN_FACTORY=world.factory.name,
        AIFN_KAFKA="kafka:19092",
        AIFN_DATABASE_URL=inside,
        AIFN_FED_KEY=f"{KEYS}/online.key.json",
        AIFN_FED_DIRECTORY=DIRECTORY,
        AIFN_INSTANCE="fedgate-0",
    )


async def ready(box: Box, port: int) -> None:
    """Wait until it says so; fails with its last words."""

    async def answers() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
                return (await http.get(f"http://127.0.0.1:{port}/readyz")).status_code == 200
        except httpx.HTTPError:
            await asyncio.to_thread(box.reload)
            assert box.status != "exited", box.words()[-3000:]
            return False

    await until(answers, seconds=240, what="the gate is ready")


@pytest.mark.skipif(os.geteuid() != 0, reason="files are given to the gate's user, which only root can do")
async def test_the_gate_signs_what_its_factory_says_and_goes_on_where_it_was_after_a_kill(
    told_time: World, journal: str, tmp_path: Path, figure: Told
) -> None:
    world = told_time
    federation = Federation.make(tmp_path)
    migrate = gate(world, federation.folder, journal).with_command(["migrate"])
    with migrate:
        status = (await asyncio.to_thread(migrate.get_wrapped_container().wait, timeout=180))["StatusCode"]
        assert status == 0, migrate.words()[-3000:]
    box = gate(world, federation.folder, journal).with_command(["serve"])
    port = box.on_loopback(8000)
    db = await asyncpg.connect(journal)
    try:
        began = time.monotonic()
        with box:
            await ready(box, port)
            figure("fedgate ready after its container was asked for", time.monotonic() - began, READY_TARGET_SECONDS)
            await until(lambda: _more(db, 0), seconds=120, what="a capacity report is signed")
            await asyncio.to_thread(box.kill)
            before = int(await db.fetchval(_SIGNED))
            began = time.monotonic()
            await asyncio.to_thread(box.again)
            await ready(box, port)
            await until(lambda: _more(db, before), seconds=120, what="signing goes on")
            figure("fedgate killed: signs again", time.monotonic() - began, AGAIN_TARGET_SECONDS)
            assert await db.fetchval(_WITHOUT_GAP)
            assert await asyncio.to_thread(box.end) == 0, box.words()[-2000:]
    finally:
        await db.close()


async def _more(db: "asyncpg.Connection[asyncpg.Record]", than: int) -> bool:
    return int(await db.fetchval(_SIGNED)) > than
