"""For a member without a broker: what the gate would announce goes to the registry's read table directly."""

import asyncio
import logging

from aifn_common.database import CONNECTION_FAULTS, Database, connect, transaction
from aifn_events.federation import IN_KINDS, STREAMS

from aifn_fedgate.door import Door
from aifn_fedgate.store import delivered

log = logging.getLogger(__name__)
AT_ONCE = 500
_KINDS = {kind.topic: (name, kind) for name, kind in IN_KINDS.items() if not STREAMS[name].sealed}


async def deliver(db: Database, door: Door) -> None:
    """Deliver for ever; a registry that is away is waited for. Without a registry, what comes is kept in the gate."""
    url = door.settings.fed_registry_url
    registry = await _connect(url.get_secret_value()) if url else None
    try:
        while True:
            try:
                while await deliver_some(db, registry):
                    pass
            except CONNECTION_FAULTS as fault:
                log.warning("delivering waits: %r", fault)
            await asyncio.sleep(door.settings.relay_poll_seconds)
    finally:
        if registry is not None:
            registry.terminate()


async def _connect(url: str) -> Database:
    while True:
        try:
            return await connect(url, connections=2)
        except CONNECTION_FAULTS as fault:
            log.warning("waiting for the registry's database: %r", fault)
            await asyncio.sleep(1)


async def deliver_some(db: Database, registry: Database | None) -> int:
    """Deliver what waits, at most so much at once; returns how much. A copy does nothing in the registry."""
    async with transaction(db) as tx:
        rows = await delivered.waiting(tx, AT_ONCE)
    facts = [
        (name, kind.model_validate_json(row["value"]))
        for row in rows
        if row["topic"] in _KINDS
        for name, kind in [_KINDS[row["topic"]]]
    ]
    if registry is not None and facts:
        async with transaction(registry) as tx:
            await delivered.put_facts(tx, facts)
    async with transaction(db) as tx:
        await delivered.forget(tx, [row["seq"] for row in rows])
    return len(rows)
