"""A whole factory in containers: every service in each role its own, told what it needs by its environment only."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_local import issuer, story
from aifn_local.demo import sites
from aifn_local.factory import Factory
from aifn_local.fleet import Program
from aifn_local.invariants import Check, Tables, check
from aifn_local.people import Person, sign_in
from aifn_local.postgres import ensure_database
from testcontainers.core.network import Network

from tests.support import engine
from tests.support.backends import answers
from tests.support.engine import Box
from tests.support.waiting import until

ISSUER = "http://issuer:8099"
SERVICES = ("registry", "accounting", "scheduler", "datalab", "skills", "siteagent")
FACTOR = 3600
# As a careful operator runs them: nothing may be written, nothing be gained, memory has an end.
CONFINED: Mapping[str, Any] = {
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "mem_limit": "256m",
    "pids_limit": 64,
}


def image_of(service: str) -> str:
    """AIFN_TEST_IMAGE_<SERVICE>, or what `make images` makes."""
    prefix = os.environ.get("AIFN_IMAGE_PREFIX", "aifn")
    tag = os.environ.get("AIFN_IMAGE_TAG", "local")
    return os.environ.get(f"AIFN_TEST_IMAGE_{service.upper()}", f"{prefix}/{service}:{tag}")


def server_image(server: str, usual: str) -> str:
    """AIFN_<SERVER>_IMAGE; else what `make images OFFLINE=1` makes, if it is there; else the one of a registry."""
    own = image_of(server)
    return os.environ.get(f"AIFN_{server.upper()}_IMAGE") or (own if engine.has_image(own) else usual)


def kafka_image() -> str:
    """Of the broker."""
    return server_image("kafka", engine.KAFKA_IMAGE)


def postgres_image() -> str:
    """Of the database server."""
    return server_image("postgres", engine.POSTGRES_IMAGE)


def needed_images() -> list[str]:
    """Every image these tests start."""
    return [*(image_of(name) for name in (*SERVICES, "fedgate")), kafka_image(), postgres_image()]


@dataclass
class World:
    """A running factory. `submitted`: the jobs that were taken so far."""

    network: Network
    kafka: Box
    postgres: Box
    factory: Factory
    http: httpx.AsyncClient
    boxes: dict[str, Box] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)
    submitted: int = 0

    @property
    def tables(self) -> Tables:
        """Looks into every database."""
        return Tables(self.factory.databases)

    def environment(self, program: Program) -> dict[str, str]:
        """The settings of a program, with the names that others have on this network."""
        own = {name: value for name, value in program.env.items() if name.startswith("AIFN_") and name != "AIFN_PORT"}
        url = urlsplit(own["AIFN_DATABASE_URL"])
        inside = urlunsplit(url._replace(netloc=f"{url.username}:{url.password}@postgres:5432"))
        static = {"AIFN_INSTANCE": f"{program.name}-0"} if program.arguments == ("worker",) else {}
        return own | static | {
            "AIFN_DATABASE_URL": inside,
            "AIFN_KAFKA": "kafka:19092",
            "AIFN_OIDC_ISSUER": ISSUER,
            "AIFN_TOPIC_PARTITIONS": "1",
        }  # fmt: skip

    def box(self, program: Program, role: str | None = None, **more: str) -> Box:
        """A container for a program, not started; `more` are settings instead of its own."""
        made = Box(image_of(program.module.removesuffix(".app").removeprefix("aifn_")), **CONFINED)
        made.with_network(self.network).with_envs(**(self.environment(program) | more))
        made.with_command([role or program.arguments[0]])
        return made

    def start(self, program: Program, name: str | None = None, **more: str) -> Box:
        """Start a program in a container of its own."""
        made = self.box(program, **more)
        port = made.on_loopback(8000)
        made.start()
        self.boxes[name or program.name] = made
        self.factory.ports[name or program.name] = port
        return made

    def program(self, name: str) -> Program:
        """One of the factory's programs."""
        return next(one for one in self.factory.programs() if one.name == name)

    async def ready(self, name: str, *, seconds: float = 240) -> None:
        """Wait until a program says that it is ready; fails with its last words."""
        deadline = time.monotonic() + seconds
        while (why_not := await self.probe(name)) is not None:
            assert time.monotonic() < deadline, f"{name}: {why_not}\n{self.boxes[name].words()[-3000:]}"
            await asyncio.sleep(0.1)

    async def probe(self, name: str) -> str | None:
        """None when a program says that it is ready, else what it says; fails when its container has ended."""
        box = self.boxes[name]
        try:
            answer = await self.http.get(f"http://127.0.0.1:{box.bound[8000]}/readyz", timeout=5)
        except httpx.HTTPError as fault:
            await asyncio.to_thread(box.reload)
            assert box.status != "exited", f"{name} ended:\n{box.words()[-3000:]}"
            return repr(fault)
        return None if answer.status_code == 200 else answer.text

    async def again(self, name: str) -> float:
        """Start a container again; returns the seconds until it serves."""
        began = time.monotonic()
        await asyncio.to_thread(self.boxes[name].again)
        await self.ready(name)
        return time.monotonic() - began

    async def person(self, persona: str, subject: str | None = None) -> Person:
        """Somebody who is signed in."""
        return await sign_in(self.http, self.factory, persona, subject)

    async def at_rest(self) -> list[Check]:
        """Wait until nothing is on its way; returns every statement about the whole."""
        await until(self.tables.quiet, seconds=150, what="everything comes to rest")
        return await check(self.tables, jobs_submitted=self.submitted)


@asynccontextmanager
async def running_world() -> AsyncIterator[World]:
    """A factory of three machines on a network of its own; all of it is gone afterwards."""
    engine.sweep()
    async with AsyncExitStack() as stack:
        network = Network(docker_network_kw={"labels": {engine.OWNER_LABEL: str(os.getpid())}})
        stack.enter_context(network)
        kafka, _ = engine.kafka_box(network, kafka_image())
        postgres, admin = engine.postgres_box(network, postgres_image())
        for box in (kafka, postgres):
            stack.enter_context(box)
        await asyncio.to_thread(engine.wait_for_kafka, kafka)
        await answers(admin)
        now = datetime.now(UTC).replace(microsecond=0)
        factory = Factory("lumi-aif", f"127.0.0.1:{kafka.bound[9092]}", admin, sites(story.in_service(())))
        factory.clock = SimulatedClock(epoch=now, started=now, factor=FACTOR)
        clock.use(factory.clock)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=30, trust_env=False))
        world = World(network, kafka, postgres, factory, http)
        stack.callback(_remove, world)
        await world_databases(factory, admin)
        _start_issuer(world)
        await asyncio.to_thread(_migrate, world)
        for program in factory.programs()[1:]:
            await asyncio.to_thread(world.start, program)
        await asyncio.gather(*(world.ready(name) for name in list(world.boxes) if name != "issuer"))
        yield world


async def world_databases(factory: Factory, admin: str) -> None:
    """A database and a role for each service; their schemas come from the role `migrate`."""
    names = [*SERVICES[:-1], *(f"siteagent_{site.machine}" for site in factory.sites)]
    for name in names:
        factory.databases[name] = await ensure_database(admin, name, factory.secret)


def _migrate(world: World) -> None:
    """Run every service's `migrate` to its end, all at once."""
    boxes = [
        (program.name, world.box(program, "migrate").start())
        for program in world.factory.programs()[1:]
        if program.arguments == ("worker",)
    ]
    try:
        for name, box in boxes:
            status = box.get_wrapped_container().wait(timeout=120)["StatusCode"]
            assert status == 0, f"migrate of {name} ended with {status}:\n{box.words()[-3000:]}"
    finally:
        for _, box in boxes:
            box.stop()


def _start_issuer(world: World) -> None:
    """The development issuer, which is in no image: its modules are put into a container of one."""
    box = Box(image_of("registry"), entrypoint=["python3", "/test/door.py"], user="0")
    package = Path(issuer.__file__).parent
    for file in ("__init__.py", "issuer.py", "personas.toml"):
        box.with_copy_into_container((package / file).read_bytes(), f"/test/aifn_local/{file}")
    box.with_copy_into_container(Path(__file__).with_name("door.py").read_bytes(), "/test/door.py")
    world.factory.ports["issuer"] = box.on_loopback(8099)
    box.named(world.network, "issuer").start()
    world.boxes["issuer"] = box


def _remove(world: World) -> None:
    for box in world.boxes.values():
        box.stop()
