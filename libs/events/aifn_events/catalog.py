"""The list of all topics: the event, who says it, who listens, how long it is kept.

Everything about topics is made from here: the topics on the broker, `docs/topics.md`, AsyncAPI, JSON Schemas.
"""

from dataclasses import dataclass
from typing import Literal

from aifn_events.access import AllocationOpened, ApplicationDecided, AwardGranted, CallPublished, ProjectDescribed
from aifn_events.base import Event
from aifn_events.datalab import DatasetAccessDecided, DatasetDescribed
from aifn_events.federation import IN_KINDS, FederationAlarmRaised
from aifn_events.handover import HandoverAnswered, HandoverAsked, HandoverSettled
from aifn_events.placement import (
    BudgetHeld,
    BudgetRefused,
    BudgetReleased,
    JobCancelRequested,
    JobClosed,
    JobDispatched,
    JobEnded,
    JobPlaced,
    JobStarted,
)
from aifn_events.registry import CapacityReported, FactoryDescribed, MachineDescribed
from aifn_events.shares import AllocationChanged, AwardDeferred, ShareHeadroomChanged, ThresholdReached
from aifn_events.skills import CourseSuggested, SessionScheduled
from aifn_events.usage import PeriodClosed, UsageCharged, UsageDayStated, UsageGapChanged, UsageReported

Service = Literal["registry", "accounting", "scheduler", "datalab", "skills", "siteagent"]
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Topic:
    """One topic. `keep` is a number of days, or `latest` for the last message of every key (compacted).

    `exported` names the stream on which the gate tells the fact to other members.
    """

    event: type[Event]
    producer: Service
    consumers: tuple[Service, ...]
    keep: int | Literal["latest"]
    partitions: int = 3
    exported: str | None = None

    @property
    def name(self) -> str:
        """The topic's name on the broker."""
        return self.event.topic

    @property
    def dead_name(self) -> str:
        """Where its hopeless messages are set aside."""
        return f"{self.event.topic}-dead"

    def settings(self) -> dict[str, str]:
        """Topic settings as Kafka words them."""
        if self.keep == "latest":
            return {"cleanup.policy": "compact"}
        return {"cleanup.policy": "delete", "retention.ms": str(self.keep * DAY_MS)}


_HEARD_FROM_PEERS: dict[str, tuple[Service, ...]] = {
    "capacity": ("registry", "scheduler"),
    "award": ("scheduler",),
    "handover": ("scheduler",),
}
"""Who hears what the gate has verified; the registry, where nothing stands here."""

TOPICS: tuple[Topic, ...] = (
    Topic(FactoryDescribed, "registry", (), keep="latest", exported="knowledge"),
    Topic(
        MachineDescribed,
        "registry",
        ("scheduler", "accounting", "datalab", "skills", "siteagent"),
        keep="latest",
        exported="capacity",
    ),
    Topic(CapacityReported, "siteagent", ("registry", "scheduler"), keep=7, exported="capacity"),
    Topic(CallPublished, "scheduler", (), keep="latest", exported="access"),
    Topic(ApplicationDecided, "scheduler", (), keep=14),
    Topic(AwardGranted, "scheduler", ("accounting", "skills"), keep=14, exported="award"),
    Topic(ProjectDescribed, "accounting", ("scheduler", "datalab", "skills"), keep="latest"),
    Topic(AllocationOpened, "accounting", ("scheduler", "datalab"), keep=14),
    Topic(AllocationChanged, "accounting", ("scheduler", "datalab"), keep=14),
    Topic(AwardDeferred, "accounting", (), keep=14),
    Topic(ShareHeadroomChanged, "accounting", (), keep="latest", exported="access"),
    Topic(ThresholdReached, "accounting", (), keep=14),
    Topic(JobPlaced, "scheduler", ("accounting",), keep=14),
    Topic(BudgetHeld, "accounting", ("scheduler",), keep=14),
    Topic(BudgetRefused, "accounting", ("scheduler",), keep=14),
    Topic(BudgetReleased, "accounting", (), keep=14),
    Topic(JobDispatched, "scheduler", ("siteagent",), keep=14),
    Topic(JobCancelRequested, "scheduler", ("siteagent",), keep=14),
    Topic(JobStarted, "siteagent", ("scheduler",), keep=14),
    Topic(JobEnded, "siteagent", ("scheduler",), keep=14),
    Topic(JobClosed, "scheduler", ("accounting",), keep=14),
    Topic(HandoverAsked, "scheduler", (), keep=14, exported="handover"),
    Topic(HandoverAnswered, "scheduler", (), keep=14, exported="handover"),
    Topic(HandoverSettled, "scheduler", ("accounting",), keep=14),
    Topic(UsageReported, "siteagent", ("accounting",), keep=14, partitions=12),
    Topic(UsageDayStated, "siteagent", ("accounting",), keep=14),
    Topic(UsageGapChanged, "accounting", (), keep=14),
    Topic(PeriodClosed, "accounting", (), keep=14),
    Topic(UsageCharged, "accounting", (), keep=14, partitions=12, exported="usage"),
    Topic(DatasetDescribed, "datalab", (), keep="latest", exported="catalogue"),
    Topic(DatasetAccessDecided, "datalab", (), keep=14),
    Topic(SessionScheduled, "skills", (), keep="latest", exported="skills"),
    Topic(CourseSuggested, "skills", (), keep=14),
    Topic(FederationAlarmRaised, "registry", (), keep=90),
    *(Topic(kind, "registry", _HEARD_FROM_PEERS.get(name, ("registry",)), keep=35) for name, kind in IN_KINDS.items()),
)

BY_NAME: dict[str, Topic] = {topic.name: topic for topic in TOPICS}
