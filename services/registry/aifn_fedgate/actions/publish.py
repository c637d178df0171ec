"""Tell the others: local facts become the next envelopes of this member's own log, a batch in one transaction."""

from collections.abc import Iterator, Sequence

from aifn_common import outbox
from aifn_common.database import Transaction
from aifn_common.errors import Refusal
from aifn_common.kafka import Rejected
from aifn_events.access import AwardGranted, CallPublished
from aifn_events.base import Event
from aifn_events.datalab import DatasetDescribed
from aifn_events.federation import STREAMS, DirectoryCarried, HeadsSigned, UsageHourSummed, UsageMonthSummed
from aifn_events.handover import HandoverAnswered, HandoverAsked
from aifn_events.registry import CapacityReported, FactoryDescribed, MachineDescribed
from aifn_events.shares import ShareHeadroomChanged
from aifn_events.skills import SessionScheduled

from aifn_fedgate.domain.chain import Chain
from aifn_fedgate.domain.directory import Trust
from aifn_fedgate.domain.envelope import ZERO, Envelope, Header, Malformed, hash_of, write
from aifn_fedgate.domain.facts import write_payload
from aifn_fedgate.domain.gate import remember
from aifn_fedgate.domain.usage import HourKey
from aifn_fedgate.door import Door
from aifn_fedgate.signing import seal
from aifn_fedgate.store import journal
from aifn_fedgate.store.journal import BatchMemory


class UnknownRecipient(Refusal):
    """A fact is for a member whose key is not in the directory; sent again, it may find it there."""

    code = "unknown_recipient"
    status = 422


class NotOursToTell(Refusal):
    """A fact for one other member that this one may not decide: its gate would not believe it."""

    code = "not_ours_to_tell"
    status = 422

    def __init__(self, event: Event, member: str) -> None:
        super().__init__(f"{thing_of(event)} is not {member}'s to decide, by its kind and its entry in the directory")


class TooLargeToTell(Refusal):
    """A fact does not fit into an envelope."""

    code = "too_large_to_tell"
    status = 422


def thing_of(event: Event) -> str:
    """The part of a record's key after the origin. Raises ValueError for a fact that is not told to others."""
    match event:
        case CapacityReported():
            return event.partition_id
        case MachineDescribed():
            return f"machine/{event.machine_id}"
        case FactoryDescribed():
            return f"factory/{event.factory_id}"
        case DatasetDescribed():
            return event.dataset_id
        case SessionScheduled():
            return event.session_id
        case CallPublished():
            return f"call/{event.call_id}"
        case ShareHeadroomChanged():
            return f"share/{event.share_id}"
        case AwardGranted():
            return event.award_id
        case HandoverAsked() | HandoverAnswered():
            return event.handover_id
        case UsageHourSummed():
            return HourKey(event.project_id, event.resource, event.hour).record_key
        case UsageMonthSummed():
            return f"{event.project_id}/{event.month}"
        case HeadsSigned():
            return "streams"
        case DirectoryCarried():
            return "directory"
    raise ValueError(f"{type(event).__name__} is not told to others")


async def tell_local(tx: Transaction, door: Door, stream: str, events: Sequence[Event]) -> list[Rejected]:
    """Tell those facts of a batch that are this member's to tell; a passport of somebody else's machine is not.

    Nor is anything on a stream that its kind does not write: courses of the JU stay at home.

    Returns: those that could not be told, each with its refusal; the others are told.
    """
    own = [(event, "") for event in events if door.may_tell(stream, event)]
    return (await tell_all(tx, door, stream, own))[1]


async def tell_sealed(tx: Transaction, door: Door, stream: str, events: Sequence[Event]) -> list[Rejected]:
    """Tell each fact to the one member it is for, if that is another. Returns those that could not be told."""
    ours: list[tuple[Event, str]] = []
    foreign: list[Rejected] = []
    for event in events:
        if (recipient := recipient_of(event)) == door.me:
            continue
        if door.may_tell(stream, event):
            ours.append((event, recipient))
        else:
            foreign.append(Rejected(event, NotOursToTell(event, door.me)))
    return foreign + (await tell_all(tx, door, stream, ours))[1]


def recipient_of(event: Event) -> str:
    """The one member that may read a fact. Raises ValueError for a fact that is for everybody."""
    match event:
        case AwardGranted():
            return event.factory_id
        case HandoverAsked():
            return event.receiver
        case HandoverAnswered():
            return event.home
    raise ValueError(f"{type(event).__name__} is for everybody")


async def tell(tx: Transaction, door: Door, stream: str, event: Event, *, recipient: str = "") -> Envelope:
    """Sign one fact into the own log. Raises UnknownRecipient, TooLargeToTell."""
    made, refused = await tell_all(tx, door, stream, [(event, recipient)])
    for one in refused:
        raise one.refusal
    return made[0]


async def tell_all(
    tx: Transaction, door: Door, stream: str, facts: Sequence[tuple[Event, str]]
) -> tuple[list[Envelope], list[Rejected]]:
    """Sign facts, in their order, and write them into the own log, its state and the outbox: one turn for all.

    Args:
        facts: each with the member it is sealed to, or "".
    Returns: the envelopes, and the facts that were refused (UnknownRecipient, TooLargeToTell).
    """
    if not facts:
        return [], []
    memory = BatchMemory(chains=await journal.lock_chains(tx, [(door.me, stream)]))
    chain = memory.chain(door.me, stream)
    keys = [f"{door.me}/{thing_of(event)}" for event, _ in facts]
    await journal.load_states(tx, memory, ((door.me, stream, hash_of(key.encode())) for key in keys))
    made: list[tuple[str, Envelope]] = []
    refused: list[Rejected] = []
    for key, (event, recipient) in zip(keys, facts, strict=True):
        try:
            envelope = _sign(door, chain, key, event, recipient)
        except (UnknownRecipient, TooLargeToTell) as refusal:
            refused.append(Rejected(event, refusal))
            continue
        remember(chain, memory, envelope)
        made.append((key, envelope))
    await keep(tx, door, memory, made)
    return [envelope for _, envelope in made], refused


def _sign(door: Door, chain: Chain, key: str, event: Event, recipient: str) -> Envelope:
    said = event if event.source else event.model_copy(update={"source": f"urn:aifn:{door.me}:fedgate"})
    sealed = seal(said.model_dump_json().encode(), _key_of(door.trust, recipient)) if recipient else None
    payload = write_payload(said, key=key, seq=chain.seq + 1, sealed=sealed, recipient=recipient)
    retired = bool(getattr(said, "retired", False))
    return sign_next(door, chain, key, payload, epoch=max(chain.epoch, 1), retired=retired)


def sign_next(door: Door, chain: Chain, key: str, payload: bytes, *, epoch: int, retired: bool) -> Envelope:
    """The envelope that comes next in the own log; the chain stays as it is. Raises TooLargeToTell."""
    first = epoch > chain.epoch
    header = Header(
        kid=door.keys.signing.kid,
        origin=door.me,
        stream=chain.stream,
        epoch=epoch,
        seq=1 if first else chain.seq + 1,
        prev=ZERO if first else chain.tip,
        key_hash=hash_of(key.encode()),
        directory_version=door.directory_version,
        retired=retired,
    )
    try:
        return write(header, payload, door.keys.signing.sign)
    except Malformed as wrong:
        raise TooLargeToTell(str(wrong)) from None


async def keep(tx: Transaction, door: Door, memory: BatchMemory, made: Sequence[tuple[str, Envelope]]) -> None:
    """Write envelopes of one's own, which `memory` knows already, into log, state and outbox."""
    await journal.put_own(tx, [envelope for _, envelope in made])
    if door.settings.kafka:
        await outbox.pass_all_on(tx, _messages(made))
    await journal.save_states(tx, memory)
    await journal.save_chains(tx, memory.chains.values())


def _messages(made: Sequence[tuple[str, Envelope]]) -> Iterator[tuple[str, bytes, bytes]]:
    for key, envelope in made:
        stream = STREAMS[envelope.header.stream]
        yield stream.out_topic, key.encode(), envelope.raw
        if stream.state:
            yield stream.state_topic, key.encode(), envelope.raw


def _key_of(trust: Trust | None, member: str) -> str:
    known = trust.directory.members.get(member) if trust else None
    key = known.current_key() if known and not known.left else None
    if key is None:
        raise UnknownRecipient(f"the directory has no key of {member or 'nobody'} to seal to")
    return key.encrypt
