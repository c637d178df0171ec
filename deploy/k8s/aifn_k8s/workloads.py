"""What runs at a factory: each service in its roles, what it hears and says, as its own code has it."""

from collections.abc import Iterable
from dataclasses import dataclass

from aifn_common.service import Service
from aifn_common.settings import ServiceSettings
from aifn_events.catalog import TOPICS, Topic
from aifn_fedgate.settings import FedgateSettings
from aifn_local.factory import service_of
from aifn_local.fleet import ROOMS

MACHINE_SERVICE = "siteagent"
"""One of these runs for every machine, with a database and a name of its own."""
GATE = "fedgate"


@dataclass(frozen=True)
class Hearing:
    """One subscription: what a scaler must know to count what waits."""

    topic: str
    group: str
    partitions: int


@dataclass(frozen=True)
class Workload:
    """One service as it is deployed."""

    name: str
    has_api: bool
    settings: type[ServiceSettings]
    hears: tuple[Hearing, ...]

    @property
    def most_workers(self) -> int:
        """More workers than this would have no partition to read."""
        return max((one.partitions for one in self.hears), default=1)


def workloads() -> tuple[Workload, ...]:
    """Every service of the catalogue; the gate is none of them."""
    return tuple(_workload(service_of(room)) for room in ROOMS)


def _workload(service: Service) -> Workload:
    partitions = {topic.name: topic.partitions for topic in TOPICS}
    heard = [(one.kind.topic, one.group) for one in service.hears.single]
    heard += [(one.kind.topic, one.group) for one in service.hears.batches]
    hears = tuple(Hearing(topic, group, partitions[topic]) for topic, group in heard)
    return Workload(service.name, bool(service.routers), service.settings, hears)


def heard_by(service: str, topics: Iterable[Topic] = TOPICS) -> list[Topic]:
    """Topics a service may read."""
    return [topic for topic in topics if service in topic.consumers]


def said_by(service: str, topics: Iterable[Topic] = TOPICS) -> list[Topic]:
    """Topics a service may write."""
    return [topic for topic in topics if speaker(topic) == service]


def speaker(topic: Topic) -> str:
    """Who writes a topic: what came in from other members is written by the gate alone, and so are its alarms."""
    if topic.name.startswith(("aifn-in-", "aifn-federation-")):
        return GATE
    return topic.producer


def settings_by_service() -> dict[str, type[ServiceSettings]]:
    """What each service reads."""
    return {one.name: one.settings for one in workloads()} | {GATE: FedgateSettings}
