"""What an hour is worth, as the operator says it; used for list costs in exports and nowhere else."""

from datetime import datetime
from decimal import Decimal
from typing import Literal

from aifn_common import clock
from aifn_common.database import Transaction
from aifn_common.errors import Invalid, Refusal
from aifn_events.vocabulary import FactoryId, ResourceId, Subject

from aifn_accounting.store import exports as store
from aifn_accounting.store.exports import HourValue


class DuplicateValue(Refusal):
    """Somebody has said what an hour is worth from this moment on, and values are never changed."""

    code = "duplicate_value"


class NoSuchHours(Invalid):
    """Hours of this kind are not used of this resource, or the resource is not this factory's."""

    code = "no_such_hours"


async def enter_value(
    tx: Transaction,
    factory_id: FactoryId,
    *,
    resource: ResourceId,
    unit: Literal["node-hour", "gpu-hour"],
    valid_from: datetime,
    amount: Decimal,
    currency: str,
    source: str,
    by: Subject,
) -> HourValue:
    """Say what an hour would cost from a moment on, instead of the value before. Raises NoSuchHours, DuplicateValue."""
    gpus = await store.counted_gpus(tx, resource, factory_id)
    if gpus is None:
        raise NoSuchHours(f"{resource} is not a resource of {factory_id} that is known here")
    if unit == "gpu-hour" and not (gpus and resource.endswith("/gpu-time")):
        raise NoSuchHours(f"{resource} is not counted in GPU-hours")
    value = HourValue(resource, unit, valid_from, amount, currency, source, by, clock.now())
    if not await store.add_value(tx, value):
        raise DuplicateValue(
            f"{resource} has a value from {valid_from.isoformat()} on: enter one from a later moment on"
        )
    return value
