"""Say how far the own streams are, pass the directory on, and begin a new epoch after a backup was restored."""

import logging
from datetime import timedelta

from aifn_common import outbox
from aifn_common.database import Database, transaction
from aifn_events.federation import DirectoryCarried, HeadsSigned

from aifn_fedgate.actions import publish
from aifn_fedgate.domain.chain import Chain
from aifn_fedgate.domain.directory import content_of
from aifn_fedgate.domain.envelope import ZERO, read
from aifn_fedgate.domain.facts import key_of, renumber
from aifn_fedgate.domain.gate import remember
from aifn_fedgate.domain.heads import heads_of
from aifn_fedgate.door import Door
from aifn_fedgate.store import journal, peers
from aifn_fedgate.store.journal import BatchMemory

log = logging.getLogger(__name__)
FRESH = timedelta(seconds=1)


async def sign_heads(db: Database, door: Door) -> None:
    """Tell everybody how far each own stream is, and what is true there."""
    async with door.lock, transaction(db) as tx:
        await journal.lock_chains(tx, [(door.me, "head")])
        chains = await journal.all_chains(tx, door.me)
        now = door.now()
        heads = heads_of(door.me, chains, directory_version=door.directory_version, now=now)
        envelope = await publish.tell(tx, door, "head", heads)
        await peers.heard_head(tx, door.me, now, envelope.raw)
    outbox.nudge()


async def newest_head(db: Database, door: Door, member: str) -> bytes | None:
    """The newest head of a member; of this one, a fresh one if anything has moved since."""
    async with transaction(db) as tx:
        raw = await peers.head_of(tx, member)
        if member != door.me:
            return raw
        chains = await journal.all_chains(tx, door.me)
        heard = (await peers.last_heard(tx)).get(door.me)
    if raw is not None and heard is not None and (door.now() - heard < FRESH or not _moved(raw, chains)):
        return raw
    await sign_heads(db, door)
    async with transaction(db) as tx:
        return await peers.head_of(tx, member)


def _moved(raw: bytes, chains: list[Chain]) -> bool:
    said = HeadsSigned.model_validate(journal.data_of(read(raw).payload)).streams
    return any(
        chain.stream != "head" and chain.seq and (chain.stream not in said or said[chain.stream].seq != chain.seq)
        for chain in chains
    )


async def carry_directory(db: Database, door: Door) -> bool:
    """Pass the directory in force on, once; whether there was something to pass on."""
    found = await door.carried(db)
    if found is None:
        return False
    roots, text = found
    version = int(content_of(text)["version"])
    async with door.lock, transaction(db) as tx:
        if await peers.carried_version(tx) >= version:
            return False
        await publish.tell(tx, door, "directory", DirectoryCarried(version=version, roots=roots, directory=text))
        await peers.keep_document(tx, "carried", version, "")
    outbox.nudge()
    return True


async def raise_epoch(db: Database, door: Door, *, at_least: int = 0) -> dict[str, int]:
    """Begin a new epoch in every own stream and sign the whole state again in it: a backup was restored.

    Returns: how many things were signed again, by stream. All of it is one transaction.
    """
    signed: dict[str, int] = {}
    async with door.lock, transaction(db) as tx:
        streams = [(door.me, chain.stream) for chain in await journal.all_chains(tx, door.me)]
        chains = await journal.lock_chains(tx, streams)
        epoch = max([at_least, *(chain.epoch + 1 for chain in chains.values())])
        for (_, stream), chain in chains.items():
            chain.epoch, chain.seq, chain.tip = epoch, 0, ZERO
            count, after = 0, b""
            while rows := await journal.state_page(tx, door.me, stream, after, 500):
                after = rows[-1]["key_hash"]
                memory = BatchMemory(chains={(door.me, stream): chain})
                made = []
                for row in rows:
                    old = read(row["raw"])
                    memory.states[door.me, stream, row["key_hash"]] = old.hash
                    key, payload = key_of(old.payload), renumber(old.payload, chain.seq + 1)
                    fresh = publish.sign_next(door, chain, key, payload, epoch=epoch, retired=False)
                    remember(chain, memory, fresh)
                    made.append((key, fresh))
                await publish.keep(tx, door, memory, made)
                count += len(made)
            await journal.save_chains(tx, [chain])
            signed[stream] = count
    outbox.nudge()
    log.warning("epoch %s begins: %s", epoch, signed)
    return signed
