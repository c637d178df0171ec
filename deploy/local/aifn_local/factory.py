"""One factory on this machine: its databases, its settings, and the programs that make it up."""

import importlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_common.database import connect
from aifn_common.migrations import MigrationError
from aifn_common.service import Service, prepare
from aifn_common.topics import MOST_PARTITIONS, create_topics
from aifn_events.federation import MemberKind

from aifn_local import processes
from aifn_local.errors import StackError
from aifn_local.fleet import Program
from aifn_local.postgres import ensure_database
from aifn_local.stack import StackState

CAPACITY_REPORT_SECONDS = 3
API_SERVICES = ("registry", "accounting", "scheduler", "datalab", "skills")


@dataclass(frozen=True)
class Site:
    """A machine whose batch system is simulated here, with so many nodes of each partition in service."""

    machine: str
    nodes: Mapping[str, int]


@dataclass
class Factory:
    """Everything needed to start one factory's processes on a running stack."""

    name: str
    kafka: str
    admin_url: str
    sites: Sequence[Site]
    clock: SimulatedClock | None = None
    log_level: str = "WARNING"
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    databases: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    topic_partitions: int = MOST_PARTITIONS
    member_kind: MemberKind = "factory"

    @classmethod
    def on(cls, stack: StackState, name: str, sites: Sequence[Site], *, secret: str | None = None) -> "Factory":
        """A factory on a local stack."""
        made = cls(name=name, kafka=stack.kafka_bootstrap, admin_url=stack.postgres_url, sites=sites)
        if secret:
            made.secret = secret
        return made

    @property
    def issuer(self) -> str:
        """Who signs tokens."""
        return f"http://127.0.0.1:{self.port('issuer')}"

    def url(self, service: str) -> str:
        """Where a service's API answers."""
        return f"http://127.0.0.1:{self.port(f'{service}-api')}"

    def port(self, program: str) -> int:
        """The port of a program, the same each time."""
        while program not in self.ports:
            port = processes.free_port(None)
            if port not in self.ports.values():
                self.ports[program] = port
        return self.ports[program]

    async def prepare(self) -> None:
        """Make topics, databases, schemas and first data, whatever of it is missing."""
        clock.use(self.clock)
        await create_topics(self.kafka, partitions=self.topic_partitions)
        for name in (*API_SERVICES, *(f"siteagent_{site.machine}" for site in self.sites)):
            room = name.split("_")[0]
            self.databases[name] = await ensure_database(self.admin_url, name.replace("-", "_"), self.secret)
            service = service_of(room)
            values = {key.removeprefix("AIFN_").lower(): value for key, value in self._env(name).items()}
            settings = service.settings.model_validate(parsed(values))
            db = await connect(self.databases[name], connections=2)
            try:
                await prepare(service, settings, db)
            except MigrationError as wrong:
                raise StackError(f"the database {name} does not fit this version: {wrong}") from None
            finally:
                await db.close()

    def _env(self, name: str) -> dict[str, str]:
        room, _, machine = name.partition("_")
        found = {
            "AIFN_FACTORY": self.name,
            "AIFN_KAFKA": self.kafka,
            "AIFN_OIDC_ISSUER": self.issuer,
            "AIFN_LOG_LEVEL": self.log_level,
            "AIFN_DATABASE_URL": self.databases[name],
            "AIFN_DATABASE_CONNECTIONS": "6",
        }
        if self.clock is not None:
            found |= {
                "AIFN_CLOCK_EPOCH": self.clock.epoch.isoformat(),
                "AIFN_CLOCK_STARTED": self.clock.started.isoformat(),
                "AIFN_CLOCK_FACTOR": str(self.clock.factor),
            }
        if room == "scheduler":
            found["AIFN_MEMBER_KIND"] = self.member_kind
        if room == "accounting":
            found["AIFN_PSEUDONYM_KEY"] = self.secret
        if machine:
            nodes = next(site.nodes for site in self.sites if site.machine == machine)
            found |= {"AIFN_MACHINE": machine, "AIFN_SIMULATED_NODES": json.dumps(dict(nodes))}
            if self.clock is not None:
                # As often as a real agent would in real time: simulated minutes are too short to report each.
                every = min(CAPACITY_REPORT_SECONDS * self.clock.factor, 86_400)
                found["AIFN_CAPACITY_REPORT_SECONDS"] = str(every)
        return found

    def programs(self) -> list[Program]:
        """Every process of the factory: the issuer, an api and a worker of each service, an agent for each site."""
        base = {name: value for name, value in os.environ.items() if not name.startswith("AIFN_")}
        issuer_port = self.port("issuer")
        found = [Program("issuer", "aifn_local.issuer", ("--port", str(issuer_port)), base, issuer_port)]
        for service in API_SERVICES:
            found += [self._program(f"{service}-{role}", service, service, role, base) for role in ("api", "worker")]
        for site in self.sites:
            found.append(
                self._program(f"siteagent-{site.machine}", "siteagent", f"siteagent_{site.machine}", "worker", base)
            )
        return found

    def _program(self, name: str, room: str, database: str, role: str, base: Mapping[str, str]) -> Program:
        port = self.port(name)
        env = {**base, **self._env(database), "AIFN_PORT": str(port)}
        return Program(name, f"aifn_{room}.app", (role,), env, port)

    def all_in_one(self) -> dict[str, str]:
        """The environment of the all-in-one process: each service's settings under its own name, as JSON."""
        names = (*API_SERVICES, *(f"siteagent_{site.machine}" for site in self.sites))
        return {"AIFN_ALL_IN_ONE": json.dumps({name: self._env(name) for name in names})}


def service_of(room: str) -> Service:
    """The service that lives in a room."""
    found: Service = importlib.import_module(f"aifn_{room}.app").service
    return found


def parsed(values: dict[str, str]) -> dict[str, object]:
    """Settings as the environment has them, with JSON read."""
    return {name: json.loads(value) if value.startswith("{") else value for name, value in values.items()}
