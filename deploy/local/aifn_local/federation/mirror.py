"""MirrorMaker 2 at one member: pushes the member's facts to every relay and pulls those of all others from there.

One process in dedicated mode, with settings made from the member list. The default replication policy puts the alias of
the cluster a topic comes from before its name; the aliases are the ids of the member and the relays.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aifn_local import processes
from aifn_local.errors import StackError, explain, explain_os_error
from aifn_local.federation.members import Member
from aifn_local.java import JavaProgram
from aifn_local.kafka import GENTLE_STEPS, KILL_STEPS

MIRROR_HEAP_MB = 256
_READY_SECONDS = 300.0

_COMMON = {
    "replication.factor": "1",
    # Consumer groups are not mirrored, so nobody needs to translate offsets; and a head says more than a heartbeat.
    "emit.checkpoints.enabled": "false",
    "emit.heartbeats.enabled": "false",
    "emit.offset-syncs.enabled": "false",
    "sync.group.offsets.enabled": "false",
    "sync.topic.acls.enabled": "false",
    # A topic is made with its settings; changing them later would need a right that a thief could use.
    "sync.topic.configs.enabled": "false",
    "refresh.groups.enabled": "false",
    "refresh.topics.interval.seconds": "10",
    "heartbeats.topic.replication.factor": "1",
    "tasks.max": "1",
    # Every jar says what it brings: looking through all of them takes seconds for each flow.
    "plugin.discovery": "service_load",
}
_WORKER = {
    "plugin.discovery": "service_load",
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
    "offset.storage.partitions": "1",
    "status.storage.partitions": "1",
    "offset.flush.interval.ms": "5000",
    # There is one worker for each flow: when its relay comes back, nobody else is to be waited for (five minutes).
    "scheduled.rebalance.max.delay.ms": "0",
}
# A client whose only broker is away looks up its first address again, without pause, and writes a line each time: the
# mirrors of a stopped relay took a whole machine. It keeps the address instead, and tries it now and then.
_PATIENCE = {"metadata.recovery.strategy": "none", "reconnect.backoff.ms": "500", "reconnect.backoff.max.ms": "5000"}
_CLIENTS = {
    "producer.linger.ms": "5",
    **_PATIENCE,
    **{f"{client}.{name}": value for client in ("producer", "consumer", "admin") for name, value in _PATIENCE.items()},
}


class MirrorEnded(StackError):
    """A mirror ended while it started: it loses patience with a broker that is slow."""


@dataclass(frozen=True)
class RelayAccess:
    """How one relay is reached: host:port and PEM files. A member writes with one credential and reads with another."""

    alias: str
    bootstrap: str
    authority: Path
    push: Path
    pull: Path


def settings(member: Member, bootstrap: str, relays: Mapping[str, RelayAccess]) -> dict[str, str]:
    """The properties of one member's mirror.

    Args:
        bootstrap: host:port of the member's own broker.
        relays: by alias; those that cannot be reached are left out, since MirrorMaker would not start.
    """
    me = member.id
    found = {
        "clusters": ",".join([me, *relays]),
        f"{me}.bootstrap.servers": bootstrap,
        **_COMMON,
        **{f"{me}.{name}": value for name, value in (_WORKER | _CLIENTS).items()},
    }
    for alias, relay in relays.items():
        tls = {
            "bootstrap.servers": relay.bootstrap,
            "security.protocol": "SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(relay.push),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(relay.authority),
        }
        # The names of what the mirror keeps at the relay begin as all does that its credential may write.
        notes = {
            "group.id": f"{me}.mirror",
            "config.storage.topic": f"{me}.mirror-configs",
            "offset.storage.topic": f"{me}.mirror-offsets",
            "status.storage.topic": f"{me}.mirror-status",
        }
        found |= {f"{alias}.{name}": value for name, value in (tls | notes | _WORKER | _CLIENTS).items()}
        found |= {
            f"{me}->{alias}.enabled": "true",
            f"{me}->{alias}.topics": "aifn-out-.*",
            f"{alias}->{me}.enabled": "true",
            f"{alias}->{me}.topics": rf"(?!{re.escape(me)}\.)[a-z0-9-]+\.aifn-out-.*",
        }
        # The relay's own entry holds the credential that writes; each client that reads is told of the other one.
        for reader in ("cluster", "consumer", "admin"):
            found[f"{alias}->{me}.source.{reader}.ssl.keystore.location"] = str(relay.pull)
    return found


def as_properties(values: Mapping[str, str]) -> str:
    r"""A Java properties file: backslashes doubled, and `>` needs nothing.

    >>> as_properties({"a->b.topics": r"x\.y"})
    'a->b.topics=x\\\\.y\n'
    """
    return "".join(f"{name}={value.replace(chr(92), chr(92) * 2)}\n" for name, value in values.items())


class LocalMirror:
    """One MirrorMaker with its folder: settings and log. It keeps no data of its own."""

    def __init__(self, folder: Path, *, home: Path | None = None, heap_mb: int = MIRROR_HEAP_MB) -> None:
        """`folder`: of this mirror alone. `home`: where the jars are kept."""
        self.folder = folder
        self.program = JavaProgram(folder, log_name="mirror", home=home)
        self.log = self.program.log
        self._heap_mb = heap_mb
        self._settings = folder / "mirror.properties"

    @property
    def mark(self) -> processes.Mark:
        """The end of its command line: the main class, and settings that are its own."""
        return ("org.apache.kafka.connect.mirror.MirrorMaker", str(self._settings))

    def launch(self, values: Mapping[str, str]) -> int:
        """Start it with these settings and return its process id at once; `wait_ready` says when it copies."""
        self.program.fetch()
        try:
            self.program.make_folder()
            self._settings.write_text(as_properties(values), encoding="utf-8")
        except OSError as error:
            raise explain_os_error(error, doing="writing a mirror's settings", path=self.folder) from error
        return self.program.launch(self._heap_mb, self.mark)

    def wait_ready(self, pid: int, flows: int, *, patience: float = _READY_SECONDS) -> None:
        """Return once each flow's connector has begun its work. Raises MirrorEnded with the reason, or StackError."""
        deadline = time.monotonic() + patience
        while self._flows_begun() < flows:
            if processes.exit_status(pid) is not None or not processes.is_alive(pid, self.mark):
                raise MirrorEnded(str(explain("MirrorMaker", self.program.written(), log=self.log)))
            if time.monotonic() > deadline:
                raise StackError(f"a mirror was not ready after {patience:.0f} s: see {self.log}")
            time.sleep(0.2)

    def running(self) -> int | None:
        """Its process id, None when it is not running."""
        found = processes.carrying(self.mark)
        return found[0].pid if found else None

    def stop(self, *, kill: bool = False) -> None:
        """End it and wait until it is gone."""
        processes.end(self.mark, KILL_STEPS if kill else GENTLE_STEPS)

    def relays(self) -> list[str]:
        """The aliases of the relays it was started with."""
        try:
            text = self._settings.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        clusters = re.search(r"^clusters=(.*)$", text, re.MULTILINE)
        return clusters[1].split(",")[1:] if clusters else []

    def _flows_begun(self) -> int:
        return self.program.written().count(" Starting MirrorSourceConnector took ")
