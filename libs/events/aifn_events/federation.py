"""What members of the network tell each other: the streams, and how a verified fact reaches the local services.

A stream carries facts of the kinds in `FACTS`, signed by their owner. The gate of the receiving member announces each
as a `PeerFact` on a topic of the member's own.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field

from aifn_events.access import AwardGranted, CallPublished
from aifn_events.base import Event, Payload
from aifn_events.datalab import DatasetDescribed
from aifn_events.handover import HandoverAnswered, HandoverAsked
from aifn_events.registry import CapacityReported, FactoryDescribed, MachineDescribed
from aifn_events.shares import ShareHeadroomChanged
from aifn_events.skills import SessionScheduled
from aifn_events.vocabulary import Amount, Count, Flag, Moment, ProjectId, ResourceId, Revision, Text

E = TypeVar("E", bound=Event)
MemberKind = Literal["factory", "antenna", "ju", "fund-holder"]
EVERY_KIND: frozenset[MemberKind] = frozenset(("factory", "antenna", "ju", "fund-holder"))
_FACTORIES: frozenset[MemberKind] = frozenset(("factory",))
_WITHOUT_MACHINES: frozenset[MemberKind] = frozenset(("ju", "fund-holder"))
AUTHORITY: dict[MemberKind, str] = {"factory": "hosting_factory", "ju": "ju", "fund-holder": "fund_holder"}
"""What a call or an award names as its deciding authority, by the kind of member; an antenna decides nothing."""

MemberId = Annotated[
    str, Field(pattern=r"^[a-z0-9-]{2,20}$", description="a member of the network", examples=["lumi-aif"])
]
Place = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]
Hash = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$", description="SHA-256 in base64url")]
NO_HASH = "A" * 43


@dataclass(frozen=True)
class Stream:
    """One owner's log of one kind of news.

    `sealed` facts are encrypted to one member; `state` streams have a compacted topic with the newest of each key.
    """

    name: str
    writers: frozenset[MemberKind]
    sealed: bool = False
    state: bool = True
    inward: bool = True
    journal_days: int = 35

    @property
    def out_topic(self) -> str:
        """Where its owner writes it."""
        return f"aifn-out-{self.name}-v1"

    @property
    def state_topic(self) -> str:
        """Where its owner keeps the newest envelope of each key."""
        return f"aifn-out-{self.name}-state-v1"

    @property
    def in_topic(self) -> str:
        """Where a receiver's gate announces what it has verified."""
        return f"aifn-in-{self.name}-v1"


STREAMS: dict[str, Stream] = {
    stream.name: stream
    for stream in (
        Stream("capacity", _FACTORIES),
        Stream("catalogue", _FACTORIES),
        Stream("skills", _FACTORIES),
        Stream("knowledge", EVERY_KIND),
        Stream("access", _FACTORIES | _WITHOUT_MACHINES),
        Stream("award", _WITHOUT_MACHINES, sealed=True, state=False, journal_days=400),
        Stream("usage", _FACTORIES, state=False),
        Stream("usage-summary", _FACTORIES),
        Stream("handover", _FACTORIES, sealed=True, state=False, journal_days=400),
        Stream("head", EVERY_KIND, inward=False),
        Stream("directory", EVERY_KIND, inward=False),
    )
}


class PeerFact(Event):
    """A fact of another member, verified by this member's gate."""

    key_field: ClassVar[str] = "record_key"

    origin: MemberId = Field(description="whose fact it is", examples=["lumi-aif"])
    epoch: Place = Field(description="rises when the owner restores a backup", examples=[1])
    seq: Place = Field(description="the place in the owner's log of this epoch", examples=[42])
    record_key: str = Field(
        max_length=512, description="which thing it is about; begins with the origin", examples=["lumi-aif/lumi-g"]
    )
    fact: str = Field(max_length=120, description="CloudEvents type", examples=["eu.aifn.capacity-reported.v1"])
    fact_id: str = Field(max_length=128, examples=["0198c7d2-0000-7000-8000-000000000000"])
    fact_source: str = Field(max_length=255, examples=["urn:aifn:lumi-aif:siteagent"])
    fact_time: Moment = Field(examples=["2026-11-21T09:00:00Z"])
    retired: Flag = Field(default=False, description="the thing is no longer there", examples=[False])
    data: str = Field(
        max_length=262_144, description="the fact itself, as JSON", examples=['{"partition_id": "lumi-g"}']
    )

    def read(self, kind: type[E]) -> E:
        """The fact as an event of its kind. Raises pydantic's ValidationError if it is of another."""
        event = kind.model_validate_json(self.data)
        return event.model_copy(update={"id": self.fact_id, "source": self.fact_source, "time": self.fact_time})


class CapacityFromPeer(PeerFact):
    """Another member's machine or what it can take right now."""

    topic: ClassVar[str] = "aifn-in-capacity-v1"


class CatalogueFromPeer(PeerFact):
    """Another member's entry in the catalogue of datasets."""

    topic: ClassVar[str] = "aifn-in-catalogue-v1"


class SkillsFromPeer(PeerFact):
    """Another member's course, with its seats."""

    topic: ClassVar[str] = "aifn-in-skills-v1"


class KnowledgeFromPeer(PeerFact):
    """What another member offers or knows."""

    topic: ClassVar[str] = "aifn-in-knowledge-v1"


class AccessFromPeer(PeerFact):
    """Another authority's calls, policies and pools."""

    topic: ClassVar[str] = "aifn-in-access-v1"


class AwardFromPeer(PeerFact):
    """An award by another authority on this member's machines."""

    topic: ClassVar[str] = "aifn-in-award-v1"


class UsageFromPeer(PeerFact):
    """What a project used at another member in one hour."""

    topic: ClassVar[str] = "aifn-in-usage-v1"


class UsageSummaryFromPeer(PeerFact):
    """What a project used at another member in one month."""

    topic: ClassVar[str] = "aifn-in-usage-summary-v1"


class HandoverFromPeer(PeerFact):
    """A step of handing a job over between another member and this one."""

    topic: ClassVar[str] = "aifn-in-handover-v1"


IN_KINDS: dict[str, type[PeerFact]] = {
    kind.topic.removeprefix("aifn-in-").removesuffix("-v1"): kind
    for kind in (
        CapacityFromPeer,
        CatalogueFromPeer,
        SkillsFromPeer,
        KnowledgeFromPeer,
        AccessFromPeer,
        AwardFromPeer,
        UsageFromPeer,
        UsageSummaryFromPeer,
        HandoverFromPeer,
    )
}


class FederationAlarmRaised(Event):
    """The gate noticed that something is wrong with what it hears of another member."""

    topic: ClassVar[str] = "aifn-federation-alarm-raised-v1"
    key_field: ClassVar[str] = "origin"

    origin: MemberId = Field(examples=["lumi-aif"])
    stream: str = Field(max_length=40, description="empty is the member as a whole", examples=["capacity"])
    alarm: Literal[
        "silence", "gap", "head_mismatch", "equivocation", "diverged", "new_epoch", "future", "state_null"
    ] = Field(examples=["gap"])
    detail: Text = Field(examples=["41 was followed by 44"])
    frozen: Flag = Field(description="nothing more of this stream is believed", examples=[False])
    raised_at: Moment = Field(examples=["2026-11-21T09:00:00Z"])


class UsageHourSummed(Event):
    """What a project used of one resource in one hour, all people together. A correction states the new sum."""

    topic: ClassVar[str] = "aifn-usage-hour-summed-v1"
    key_field: ClassVar[str] = "project_id"

    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    hour: Moment = Field(
        description="its beginning; a charge counts where its segment ended", examples=["2026-11-21T09:00:00Z"]
    )
    amount: Amount = Field(examples=[192_000])
    records: Count = Field(description="how many charges are in it", examples=[1])
    revision: Revision = Field(examples=[0])


class UsageMonthSummed(Event):
    """What a project used of each resource in one month. A correction states the new sums."""

    topic: ClassVar[str] = "aifn-usage-month-summed-v1"
    key_field: ClassVar[str] = "project_id"

    project_id: ProjectId = Field(examples=["aif-2026-0117"])
    month: str = Field(pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])$", examples=["2026-11"])
    amounts: dict[ResourceId, Amount] = Field(max_length=256, examples=[{"lumi/lumi-g/gpu-time": 192_000}])
    revision: Revision = Field(examples=[0])


class Head(Payload):
    """How far a stream is, and what is true in it there: a checkpoint."""

    epoch: Place
    seq: Place
    hash: Hash = Field(description="of the newest envelope")
    keys: Count = Field(description="things that are not retired")
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="sum over all keys, see docs/federation.md")


class HeadsSigned(Event):
    """How far each stream of a member is."""

    topic: ClassVar[str] = "aifn-heads-signed-v1"
    key_field: ClassVar[str] = "member"

    member: MemberId = Field(examples=["lumi-aif"])
    streams: dict[str, Head] = Field(
        max_length=32,
        examples=[{"capacity": {"epoch": 1, "seq": 42, "hash": NO_HASH, "keys": 1, "digest": "0" * 64}}],
    )
    directory_version: Place = Field(examples=[1])
    signed_at: Moment = Field(examples=["2026-11-21T09:00:00Z"])


class DirectoryCarried(Event):
    """The directory of members and the roots behind it; believed for the signatures inside, whoever carries it."""

    topic: ClassVar[str] = "aifn-directory-carried-v1"
    key_field: ClassVar[str] = "version"

    version: Place = Field(examples=[1])
    roots: list[str] = Field(max_length=64, description="each a JWS in general JSON form", examples=[["{}"]])
    directory: str = Field(max_length=262_144, description="a JWS in general JSON form", examples=["{}"])


FACTS: dict[str, dict[str, type[Event]]] = {
    name: {kind.type_name(): kind for kind in kinds}
    for name, kinds in {
        "capacity": (MachineDescribed, CapacityReported),
        "catalogue": (DatasetDescribed,),
        "skills": (SessionScheduled,),
        "knowledge": (FactoryDescribed,),
        "access": (CallPublished, ShareHeadroomChanged),
        "award": (AwardGranted,),
        "usage": (UsageHourSummed,),
        "usage-summary": (UsageMonthSummed,),
        "handover": (HandoverAsked, HandoverAnswered),
        "head": (HeadsSigned,),
        "directory": (DirectoryCarried,),
    }.items()
}
"""Which facts a stream carries, by CloudEvents type."""


def may_tell(event: Event, member: str, kind: MemberKind | None) -> bool:
    """Whether a fact is a member's to tell: it is about what is theirs, and a decision is one of their kind.

    `kind` None is not known yet, and then not looked at. A machine that no factory operates is nobody's.

    >>> may_tell(DatasetDescribed.example(factory_id="bsc-aif"), "lumi-aif", "factory")
    False
    >>> award = AwardGranted.example(deciding_authority="ju", factory_id="lumi-aif")
    >>> may_tell(award, "ju", "ju"), may_tell(award, "bsc-aif", "factory")
    (True, False)
    """
    match event:
        case HeadsSigned():
            return event.member == member
        case MachineDescribed():
            return member in event.factory_ids
        case FactoryDescribed() | DatasetDescribed() | SessionScheduled() | ShareHeadroomChanged():
            return event.factory_id == member
        case HandoverAsked():
            return event.home == member
        case HandoverAnswered():
            return event.receiver == member
        case CallPublished():
            return event.factory_id == member and _decides(kind, event.deciding_authority)
        case AwardGranted():
            return _decides(kind, event.deciding_authority)
    return True


def _decides(kind: MemberKind | None, authority: str) -> bool:
    return kind is None or AUTHORITY.get(kind) == authority
