"""The trail of changes: who, what, why, before and after, written in the transaction of the change."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from typing import Any

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_events.vocabulary import FactoryId, ProjectId

from aifn_accounting.store import decisions


async def record(
    tx: Transaction,
    *,
    actor: str,
    action: str,
    thing: str,
    thing_id: str,
    factory_id: FactoryId,
    reason: str,
    before: object = None,
    after: object = None,
    project_id: ProjectId | None = None,
) -> None:
    """Keep what a person changed; `before` and `after` are values of the store, or what of them matters."""
    await decisions.add_change(
        tx,
        at=clock.now(),
        actor=actor,
        action=action,
        thing=thing,
        thing_id=thing_id,
        project_id=project_id,
        factory_id=factory_id,
        reason=reason,
        before=_plain(before),
        after=_plain(after),
    )


def _plain(value: object) -> dict[str, Any] | None:
    if value is None:
        return None
    found = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    if not isinstance(found, Mapping):
        raise TypeError(f"{type(value).__name__} is nothing a trail can keep")
    return {name: one.isoformat() if isinstance(one, datetime | date) else one for name, one in found.items()}
