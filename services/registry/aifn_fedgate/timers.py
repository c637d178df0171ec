"""What the gate does by the clock: its directory, its heads, its gaps, its sums."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from aifn_common.database import Database, transaction
from aifn_events.federation import HeadsSigned

from aifn_fedgate.actions import heads, usage
from aifn_fedgate.actions.receive import head_in, look_again
from aifn_fedgate.actions.repair import Repair
from aifn_fedgate.domain import gate as rules
from aifn_fedgate.domain.envelope import Envelope
from aifn_fedgate.domain.gate import Arrival, Gate
from aifn_fedgate.door import Door
from aifn_fedgate.members import Members, NoAnswer, Pruned
from aifn_fedgate.signing import verify
from aifn_fedgate.store import journal

log = logging.getLogger(__name__)
DIRECTORY_SECONDS = 3.0
HOUSE_SECONDS = 3600.0
MIND_OTHERS = timedelta(seconds=5)


@dataclass(frozen=True)
class Tick:
    """One of the gate's timers."""

    name: str
    every_seconds: float
    action: Callable[[Database, Any], Awaitable[None]]


async def begin(repair: Repair) -> None:
    """Trust whom we trusted before, and begin a new epoch if the others know a later past of ours."""
    db, door = repair.db, repair.door
    await door.recall(db)
    await door.look_into_folder(db)
    highest = await later_past(db, door, repair.members)
    if highest:
        log.error("others hold a later past of ours, up to epoch %s: a backup was restored here", highest)
        await heads.raise_epoch(db, door, at_least=highest + 1)


async def later_past(db: Database, door: Door, members: Members) -> int:
    """The highest epoch in which others have seen us further than we are ourselves; 0 if nobody has."""
    answers = await asyncio.gather(*(_our_head_at(door, members, asked) for asked in door.others()))
    async with transaction(db) as tx:
        chains = {chain.stream: chain.at for chain in await journal.all_chains(tx, door.me)}
    highest = 0
    for envelope, said in (one for one in answers if one is not None):
        places = {stream: (head.epoch, head.seq) for stream, head in said.streams.items()}
        places["head"] = (envelope.header.epoch, envelope.header.seq)
        highest = max([highest, *(at[0] for stream, at in places.items() if at > chains.get(stream, (0, 0)))])
    return highest


async def _our_head_at(door: Door, members: Members, asked: str) -> tuple[Envelope, HeadsSigned] | None:
    try:
        async with asyncio.timeout(MIND_OTHERS.total_seconds()):
            raw = await members.head(asked, door.me)
    except (NoAnswer, Pruned, TimeoutError):
        return None
    arrival = Arrival(raw, door.me, "head", via="https")
    envelope = rules.unpack(arrival)
    if door.trust is None or not isinstance(envelope, Envelope):
        return None
    # Looked at as somebody else would: our own gate takes nothing of our own from others.
    gate = Gate(asked, door.trust, verify, door.keys.open_sealed)
    if gate.check(arrival, envelope, door.now()) is not None:
        return None
    said = head_in(gate, envelope, door.now())
    return None if said is None else (envelope, said)


def all_of(repair: Repair) -> list[Tick]:
    """Every timer of one gate."""
    db, door, settings = repair.db, repair.door, repair.door.settings

    async def mind_directory(_: Database, __: Any) -> None:
        await door.look_into_folder(db)
        await repair.refresh_directory()
        await heads.carry_directory(db, door)
        await look_again(db, door)

    async def sign_heads(_: Database, __: Any) -> None:
        await heads.sign_heads(db, door)

    async def mend(_: Database, __: Any) -> None:
        if not settings.relays:
            await repair.ask_heads(door.others())
        await repair.watch_silence()
        await repair.close_gaps()
        await repair.mend_diverged()

    async def tell_sums(_: Database, __: Any) -> None:
        await usage.tell_sums(db, door)

    async def keep_house(_: Database, __: Any) -> None:
        async with transaction(db) as tx:
            await journal.prune(tx, settings.fed_keep_days)

    return [
        Tick("directory", DIRECTORY_SECONDS, mind_directory),
        Tick("heads", settings.fed_head_seconds, sign_heads),
        Tick("mend", settings.fed_pull_seconds, mend),
        Tick("usage", settings.fed_usage_seconds, tell_sums),
        Tick("house", HOUSE_SECONDS, keep_house),
    ]
