"""Tell the others: a local fact becomes the next envelope of this member's own log, in one transaction."""

from collections.abc import Sequence

from aifn_common import outbox
from aifn_common.database import Transaction
from aifn_common.errors import Refusal
from aifn_events.access import AwardGranted
from aifn_events.base import Event
from aifn_events.datalab import DatasetDescribed
from aifn_events.federation import STREAMS, DirectoryCarried, HeadsSigned, UsageHourSummed, UsageMonthSummed, owners_of
from aifn_events.registry import CapacityReported, FactoryDescribed, MachineDescribed
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
        case AwardGranted():
            return event.award_id
        case UsageHourSummed():
            return HourKey(event.project_id, event.resource, event.hour).record_key
        case UsageMonthSummed():
            return f"{event.project_id}/{event.month}"
        case HeadsSigned():
            return "streams"
        case DirectoryCarried():
            return "directory"
    raise ValueError(f"{type(event).__name__} is not told to others")


async def tell_own(tx: Transaction, door: Door, stream: str, event: Event) -> bool:
    """Tell a fact if it is this member's to tell; a passport of somebody else's machine is not."""
    owners = owners_of(event)
    if owners and door.me not in owners:
        return False
    await tell(tx, door, stream, event)
    return True


async def tell_award(tx: Transaction, door: Door, event: AwardGranted) -> bool:
    """Tell the hosting factory of an award, if that is another member. Raises UnknownRecipient."""
    if event.factory_id == door.me:
        return False
    await tell(tx, door, "award", event, recipient=event.factory_id)
    return True


async def tell(tx: Transaction, door: Door, stream: str, event: Event, *, recipient: str = "") -> Envelope:
    """Sign a fact and write it into the own log, its state and the outbox.

    Raises: UnknownRecipient, TooLargeToTell.
    """
    memory = BatchMemory(chains=await journal.lock_chains(tx, [(door.me, stream)]))
    chain = memory.chain(door.me, stream)
    key = f"{door.me}/{thing_of(event)}"
    event = event if event.source else event.model_copy(update={"source": f"urn:aifn:{door.me}:fedgate"})
    sealed = seal(event.model_dump_json().encode(), _key_of(door.trust, recipient)) if recipient else None
    payload = write_payload(event, key=key, seq=chain.seq + 1, sealed=sealed, recipient=recipient)
    retired = bool(getattr(event, "retired", False))
    envelope = sign_next(door, chain, key, payload, epoch=max(chain.epoch, 1), retired=retired)
    await keep(tx, door, memory, [(key, envelope)])
    return envelope


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
    """Write envelopes of one's own into log, state and outbox, moving their chains on."""
    for key, envelope in made:
        chain = memory.chain(envelope.header.origin, envelope.header.stream)
        await journal.load_state(tx, memory, chain, envelope.header.key_hash)
        remember(chain, memory, envelope)
        await journal.put_own(tx, envelope)
        if door.settings.kafka:
            stream = STREAMS[envelope.header.stream]
            await outbox.pass_on(tx, stream.out_topic, key.encode(), envelope.raw, "[]")
            if stream.state:
                await outbox.pass_on(tx, stream.state_topic, key.encode(), envelope.raw, "[]")
    await journal.save_states(tx, memory)
    await journal.save_chains(tx, memory.chains.values())


def _key_of(trust: Trust | None, member: str) -> str:
    known = trust.directory.members.get(member) if trust else None
    key = known.current_key() if known and not known.left else None
    if key is None:
        raise UnknownRecipient(f"the directory has no key of {member or 'nobody'} to seal to")
    return key.encrypt
