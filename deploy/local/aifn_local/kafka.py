"""Apache Kafka as one local process: a single KRaft node from its jars, on the loopback only."""

import base64
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aifn_local import processes
from aifn_local.errors import StackError, explain, explain_os_error
from aifn_local.home import make_folder
from aifn_local.java import JavaProgram
from aifn_local.processes import Mark

DEFAULT_HEAP_MB = 384
_SMALLEST_HEAP_MB = 128
_READY_SECONDS = 300.0
_READY_LINE = "Kafka Server started"
GENTLE_STEPS: tuple[processes.Step, ...] = ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0))
KILL_STEPS: tuple[processes.Step, ...] = ((signal.SIGKILL, 10.0),)

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=CLIENTS://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=CLIENTS://127.0.0.1:{port}
listener.security.protocol.map=CLIENTS:{protocol},CONTROLLER:{protocol}
controller.listener.names=CONTROLLER
inter.broker.listener.name=CLIENTS
log.dirs={data}
# Topics come from the catalogue, never from a typing error.
auto.create.topics.enable=false
# One node: every internal topic has one replica, and few partitions start faster.
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=4
# A first member need not wait three seconds for others; a dead one may be noticed within a second.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
# After kill -9 the broker's new life must wait until its old one has timed out: nine seconds by default.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
# Looking through its logs afterwards waits for the disk more than it computes.
num.recovery.threads.per.data.dir=8
# Sized for a laptop: the cleaner alone would take 128 MB of the heap.
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=8388608
num.network.threads=2
num.io.threads=4
background.threads=2
"""

# Nobody comes in without a certificate of ours, on the controller's port neither; nobody may do what no rule allows.
_MUTUAL_TLS = """\
ssl.keystore.type=PEM
ssl.keystore.location={key_and_certificate}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
ssl.client.auth=required
ssl.enabled.protocols=TLSv1.3
ssl.principal.mapping.rules=RULE:^CN=([a-z0-9.-]+)$/$1/
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:{principal}
"""


@dataclass(frozen=True)
class MutualTls:
    """A broker that shows a certificate and wants one, signed by `authority`; `principal` is its own name.

    Both files are PEM; in the first the key (PKCS#8) comes before the certificate.
    """

    principal: str
    key_and_certificate: Path
    authority: Path

    def properties(self) -> str:
        """The lines of its settings."""
        return _MUTUAL_TLS.format(
            principal=self.principal, key_and_certificate=self.key_and_certificate, authority=self.authority
        )


class LocalKafka:
    """One broker with its folder: settings, data and log. Starting it twice is one broker."""

    def __init__(
        self,
        folder: Path,
        *,
        home: Path | None = None,
        heap_mb: int = DEFAULT_HEAP_MB,
        security: MutualTls | None = None,
    ) -> None:
        """`folder`: of this broker alone. `home`: where the jars are kept. `heap_mb`: its Java heap, at least 128."""
        if heap_mb < _SMALLEST_HEAP_MB:
            raise StackError(f"Kafka does not run with a heap of {heap_mb} MB: give it {_SMALLEST_HEAP_MB} or more")
        self.folder = folder
        self.heap_mb = heap_mb
        self.program = JavaProgram(folder, log_name="kafka", home=home)
        self.jars = self.program.jars
        self.log = self.program.log
        self._security = security
        self._settings = folder / "server.properties"
        self._data = folder / "data"

    @property
    def mark(self) -> Mark:
        """The end of its command line: the main class, and settings that are its own."""
        return ("kafka.Kafka", str(self._settings))

    def prepare(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Fetch what it needs. Takes a quarter of a minute the first time. Raises StackError."""
        self.program.fetch(say)

    def launch(self, port: int, controller_port: int) -> int:
        """Start it and return its process id at once; `wait_ready` says when it answers."""
        text = _PROPERTIES.format(
            port=port,
            controller_port=controller_port,
            data=self._data,
            protocol="SSL" if self._security else "PLAINTEXT",
        )
        try:
            self.program.make_folder()
            self._settings.write_text(text + (self._security.properties() if self._security else ""), encoding="utf-8")
        except OSError as error:
            raise explain_os_error(error, doing="writing Kafka's settings", path=self.folder) from error
        self._format_once()
        return self.program.launch(self.heap_mb, self.mark)

    def wait_ready(self, pid: int, port: int, *, patience: float = _READY_SECONDS) -> None:
        """Return once the broker says it has started and accepts connections. Raises StackError, with its reason."""
        deadline = time.monotonic() + patience
        while not (_READY_LINE in self.program.written() and processes.answers("127.0.0.1", port)):
            if processes.exit_status(pid) is not None or not processes.is_alive(pid, self.mark):
                raise explain("Kafka", self.program.written(), log=self.log)
            if time.monotonic() > deadline:
                raise StackError(f"Kafka was not ready after {patience:.0f} s: see {self.log}")
            time.sleep(0.05)

    def running(self) -> int | None:
        """Its process id, None when it is not running."""
        found = processes.carrying(self.mark)
        return found[0].pid if found else None

    def stop(self, *, kill: bool = False) -> None:
        """End it and wait until it is gone; `kill` gives it no time to tidy up, as a power cut would."""
        processes.end(self.mark, KILL_STEPS if kill else GENTLE_STEPS)

    def wipe(self) -> None:
        """Remove its data, settings and log. It must not be running."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _format_once(self) -> None:
        """Give an empty data folder its cluster id; one left half done by a crash is made again."""
        if (self._data / "meta.properties").exists():
            return
        shutil.rmtree(self._data, ignore_errors=True)
        make_folder(self._data)
        command = [
            *self.program.command(),
            "kafka.tools.StorageTool",
            "format",
            "-t",
            _cluster_id(),
            "-c",
            str(self._settings),
        ]
        try:
            processes.run("Kafka", command, folder=self.folder)
        except BaseException:
            shutil.rmtree(self._data, ignore_errors=True)
            raise


def _cluster_id() -> str:
    """A random cluster id as Kafka writes it; one that starts with a hyphen would be read as an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
