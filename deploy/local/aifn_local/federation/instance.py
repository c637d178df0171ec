"""One member's instance: all its services in one process, its gate in another, its own issuer, on its own servers."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
from aifn_common.database import connect
from aifn_common.service import prepare
from aifn_fedgate.app import service_for
from aifn_fedgate.door import Door
from aifn_fedgate.settings import FedgateSettings
from aifn_fedgate.topics import create_out_topics
from aifn_registry.seed import load

from aifn_local.errors import StackError, explain
from aifn_local.factory import API_SERVICES, Factory, Site
from aifn_local.federation.members import Member
from aifn_local.federation.program import LocalProgram
from aifn_local.postgres import ensure_database
from aifn_local.stack import StackState

NODES_IN_SERVICE = 4
# A topic has one partition here, so no news waits for an open question about others; asking anew is what an idle member
# does most, and there are several on one machine.
WAIT_SECONDS = "5"
READY_SECONDS = 300.0
HEAD_SECONDS = 5
SILENCE_SECONDS = 20


@dataclass
class MemberFactory(Factory):
    """A factory whose services share one process, each under its name: one reader of each topic."""

    topic_partitions: int = 1

    def _env(self, name: str) -> dict[str, str]:
        return super()._env(name) | {"AIFN_KAFKA_WAIT_SECONDS": WAIT_SECONDS}

    def url(self, service: str) -> str:
        """Where a service's API answers."""
        return f"http://127.0.0.1:{self.port('services')}/{service}"


class MemberInstance:
    """What one member runs besides its servers. `folder` is this member's alone."""

    def __init__(
        self,
        member: Member,
        folder: Path,
        stack: StackState,
        *,
        relays: Sequence[str],
        ceremony: Path,
        secret: str,
        ports: dict[str, int],
    ) -> None:
        """`ceremony`: the folder with the members' keys and the directory. `ports`: kept and filled, by program."""
        self.member = member
        self.factory = MemberFactory.on(stack, member.id, sites_of(member), secret=secret)
        self.factory.member_kind = member.kind
        self.factory.ports = ports
        self._folder = folder
        self._relays = relays
        self._ceremony = ceremony

    @property
    def endpoint(self) -> str:
        """Where the gate answers other members."""
        return f"http://127.0.0.1:{self.factory.port('fedgate')}"

    async def prepare(self) -> None:
        """Make topics, databases, schemas and first data, the gate's too, whatever of it is missing."""
        await self.factory.prepare()
        self.factory.databases["fedgate"] = await ensure_database(
            self.factory.admin_url, "fedgate", self.factory.secret
        )
        values = {name.removeprefix("AIFN_").lower(): value for name, value in self._gate_env().items()}
        settings = FedgateSettings.model_validate(values)
        db = await connect(settings.database_url.get_secret_value(), connections=2)
        try:
            await prepare(service_for(Door.open(settings)), settings, db)
        finally:
            await db.close()
        await create_out_topics(settings)

    def programs(self) -> dict[str, LocalProgram]:
        """By name: issuer, services, fedgate. Complete only after `prepare`."""
        port = self.factory.port
        issuer = ("--port", str(port("issuer")), "--factory", self.member.id)
        services = {**self.factory.all_in_one(), "AIFN_PORT": str(port("services"))}
        gate = {**self._gate_env(), "AIFN_PORT": str(port("fedgate"))}
        return {
            "issuer": LocalProgram(self._folder / "issuer", "aifn_local.issuer", issuer, {}, port("issuer")),
            "services": LocalProgram(
                self._folder / "services", "aifn_local.all_in_one", (), services, port("services")
            ),
            "fedgate": LocalProgram(self._folder / "fedgate", "aifn_fedgate.app", ("serve",), gate, port("fedgate")),
        }

    async def wait_ready(self) -> None:
        """Return once every program says that it is ready. Raises StackError that names the one which is not."""
        programs = self.programs()
        asked = [(programs["issuer"], "/personas"), (programs["fedgate"], "/readyz")]
        asked += [(programs["services"], f"/{service}/readyz") for service in API_SERVICES]
        deadline = time.monotonic() + READY_SECONDS
        async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
            for program, path in asked:
                while not await _says_yes(http, program.url + path):
                    name = f"{program.folder.name} of {self.member.id}"
                    if not program.running():
                        raise explain(name, program.log.read_text(errors="replace")[-20_000:], log=program.log)
                    if time.monotonic() > deadline:
                        raise StackError(f"{name} is not ready after {READY_SECONDS:.0f} s: see {program.log}")
                    await asyncio.sleep(0.3)

    def _gate_env(self) -> dict[str, str]:
        return {
            "AIFN_FACTORY": self.member.id,
            "AIFN_KAFKA": self.factory.kafka,
            "AIFN_LOG_LEVEL": self.factory.log_level,
            "AIFN_DATABASE_URL": self.factory.databases["fedgate"],
            "AIFN_DATABASE_CONNECTIONS": "6",
            "AIFN_FED_RELAYS": ",".join(self._relays),
            "AIFN_FED_KEY": str(self._ceremony / "members" / self.member.id / "online.key.json"),
            "AIFN_FED_DIRECTORY": str(self._ceremony / "public"),
            # Quicker than the defaults, so that what goes wrong in a demo is noticed while one looks.
            "AIFN_FED_HEAD_SECONDS": str(HEAD_SECONDS),
            "AIFN_FED_SILENCE_SECONDS": str(SILENCE_SECONDS),
            "AIFN_FED_USAGE_SECONDS": "3",
            "AIFN_KAFKA_WAIT_SECONDS": WAIT_SECONDS,
        }


def sites_of(member: Member) -> list[Site]:
    """A slice of each machine the member operates, by the registry's first data; a batch system simulated for each."""
    found = []
    for machine in load().machines:
        if member.id in machine.factory_ids and machine.stage == "operating":
            nodes = {part.partition_id: NODES_IN_SERVICE for part in machine.partitions if part.nodes is not None}
            found.append(Site(machine.machine_id, nodes))
    return found


async def _says_yes(http: httpx.AsyncClient, url: str) -> bool:
    with suppress(httpx.HTTPError):
        return (await http.get(url)).status_code == 200
    return False
