"""Containers for tests: a broker and a database server from any image that takes the official images' settings."""

import os
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import psutil
from aifn_local import processes

# Nothing is fetched to watch over our containers: they carry our process's number, and the next run removes orphans.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
os.environ.setdefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

OWNER_LABEL = "eu.aifn.test-process"
PASSWORD = "test"
KAFKA_READY_LINE = "Kafka Server started"


def docker(*arguments: str, seconds: float = 60) -> str | None:
    """What a docker command prints; None if it fails, or if there is no docker."""
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def engine_answers() -> bool:
    """Whether there is a Docker engine."""
    return bool(docker("version", "--format", "{{.Server.Version}}", seconds=10))


def has_image(name: str) -> bool:
    """Whether the engine has an image already, or may fetch it."""
    return os.environ.get("AIFN_TEST_PULL") == "1" or bool(engine_answers() and docker("image", "ls", "--quiet", name))


# What the local stack's tests take when an engine has them; our own images are used where they are named.
KAFKA_IMAGE = os.environ.get("AIFN_KAFKA_IMAGE", "apache/kafka:4.3.1")
POSTGRES_IMAGE = os.environ.get("AIFN_POSTGRES_IMAGE", "postgres:18")


class Box(DockerContainer):
    """A container whose ports are open to this machine only and stay the same when it is started again."""

    def __init__(self, image: str, **options: Any) -> None:
        super().__init__(image)
        self._options: dict[str, Any] = {"labels": {OWNER_LABEL: str(os.getpid())}, **options}
        self.with_kwargs(**self._options)
        self.bound: dict[int, int] = {}

    def on_loopback(self, port: int) -> int:
        """Open a port of the container here; returns its number here."""
        free = processes.free_port(None)
        bindings: dict[str, Any] = self.ports
        bindings[f"{port}/tcp"] = ("127.0.0.1", free)
        self.bound[port] = free
        return free

    def named(self, network: Network, name: str) -> "Box":
        """Known to others on a network by this name."""
        self.with_network(network).with_network_aliases(name)
        return self

    def words(self) -> str:
        """Everything it has written."""
        return (self.get_wrapped_container().logs() or b"").decode(errors="replace")

    def kill(self) -> None:
        """End it as a power cut would."""
        self.get_wrapped_container().kill("SIGKILL")

    def again(self) -> None:
        """Start it again after it ended, with its files."""
        self.get_wrapped_container().start()

    def end(self, seconds: int = 60) -> int:
        """Tell it to stop (SIGTERM); returns its exit status."""
        container = self.get_wrapped_container()
        container.stop(timeout=seconds)
        return int(container.wait()["StatusCode"])


def kafka_box(network: Network | None = None, image: str = KAFKA_IMAGE) -> tuple[Box, str]:
    """One broker, and its address for programs on this machine; on a network others know it as kafka:19092."""
    box = Box(image)
    port = box.on_loopback(9092)
    outside = f"127.0.0.1:{port}"
    settings = {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "LISTENERS": "HOST://:9092,INSIDE://:19092,CONTROLLER://:9093",
        "ADVERTISED_LISTENERS": f"HOST://{outside},INSIDE://kafka:19092",
        "LISTENER_SECURITY_PROTOCOL_MAP": "HOST:PLAINTEXT,INSIDE:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "INTER_BROKER_LISTENER_NAME": "INSIDE",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "OFFSETS_TOPIC_NUM_PARTITIONS": "8",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
        "SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "GROUP_MIN_SESSION_TIMEOUT_MS": "1000",
        # After kill -9 its new life must wait until the old one has timed out.
        "BROKER_SESSION_TIMEOUT_MS": "2000",
        "BROKER_HEARTBEAT_INTERVAL_MS": "500",
        "NUM_RECOVERY_THREADS_PER_DATA_DIR": "8",
        "LOG_CLEANER_THREADS": "1",
        "LOG_CLEANER_DEDUPE_BUFFER_SIZE": "8388608",
        "LOG_DIRS": "/var/lib/kafka/data",
        "HEAP_OPTS": "-Xmx320m",
    }
    box.with_envs(**{f"KAFKA_{name}": value for name, value in settings.items()})
    if network is not None:
        box.named(network, "kafka")
    return box, outside


def postgres_box(network: Network | None = None, image: str = POSTGRES_IMAGE, **options: Any) -> tuple[Box, str]:
    """One database server, and its administrator's address; on a network others know it as postgres:5432."""
    box = Box(image, **options)
    port = box.on_loopback(5432)
    box.with_envs(POSTGRES_PASSWORD=PASSWORD, POSTGRES_INITDB_ARGS="--locale=C --encoding=UTF8")
    box.with_command(["postgres", "-c", "max_connections=200", "-c", "timezone=UTC"])
    if network is not None:
        box.named(network, "postgres")
    return box, f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/postgres"


def wait_for_line(box: Box, line: str, *, times: int = 1, seconds: float = 90) -> None:
    """Return once a container has written a line so often; fails with its last words when it ends or is too slow."""
    deadline = time.monotonic() + seconds
    while (words := box.words()).count(line) < times:
        box.reload()
        alive = box.status in {"created", "running", "restarting"}
        assert alive and time.monotonic() < deadline, f"{box.image} never said {line!r}:\n{words[-3000:]}"  # noqa: PT018
        time.sleep(0.1)


def wait_for_kafka(box: Box, *, times: int = 1) -> None:
    """Return once the broker says it has started, for the given time."""
    wait_for_line(box, KAFKA_READY_LINE, times=times)


def sweep() -> None:
    """Remove what test runs left that were killed: containers and networks whose process is gone."""
    for kind in ("container", "network"):
        everything = ["--all"] if kind == "container" else []
        listed = docker(kind, "ls", *everything, "--filter", f"label={OWNER_LABEL}", "--format",
                        f'{{{{.ID}}}} {{{{.Label "{OWNER_LABEL}"}}}}') or ""  # fmt: skip
        for line in listed.splitlines():
            identity, owner = line.split()
            if not psutil.pid_exists(int(owner)):
                docker(kind, "rm", *(["--force", "--volumes"] if kind == "container" else []), identity)


def required() -> bool:
    """Whether a missing engine is an error: AIFN_CONTAINERS=required, as a CI sets it that has installed one."""
    return os.environ.get("AIFN_CONTAINERS") == "required"


def missing_images(names: Sequence[str]) -> list[str]:
    """Those the engine neither has nor may fetch."""
    return [name for name in names if not has_image(name)]
