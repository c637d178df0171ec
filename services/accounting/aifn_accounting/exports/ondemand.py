"""Open OnDemand's balance file, version 1: what each user's projects have left, for the portal of a machine.

Source: Open OnDemand documentation, "Balance Warnings on Dashboard". A site fetches it by a timer and names the file in
OOD_BALANCE_PATH; OOD_BALANCE_THRESHOLD is in the same unit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal

Unit = Literal["gpu-hours", "node-hours"]


@dataclass(frozen=True)
class UserBalance:
    """What a project that a local user has worked for has left on a machine, in slice-seconds."""

    user: str
    project_id: str
    available: int
    units_per_node: int
    gpus_per_node: int | None


def balance_file(rows: Iterable[UserBalance], unit: Unit, at: datetime) -> dict[str, object]:
    """The whole file. Hours are rounded down to a thousandth: a warning rather comes early.

    >>> one = UserBalance("mari", "p1", 64 * 3600 + 1, units_per_node=64, gpus_per_node=4)
    >>> balance_file([one], "gpu-hours", datetime.fromisoformat("2026-11-21T00:00:00Z"))["balances"]
    [{'user': 'mari', 'project': 'p1', 'value': 4.0}]
    """
    left: dict[tuple[str, str], int] = {}
    for one in rows:
        per_node = 1 if unit == "node-hours" else one.gpus_per_node or 0
        key = one.user, one.project_id
        left[key] = left.get(key, 0) + one.available * per_node * 1000 // (one.units_per_node * 3600)
    return {
        "version": 1,
        "timestamp": int(at.timestamp()),
        "config": {"unit": unit, "project_type": "project"},
        # The format wants a JSON number; a thousandth is exact enough in one that people only read.
        "balances": [
            {"user": user, "project": project, "value": float(Decimal(value) / 1000)}
            for (user, project), value in sorted(left.items())
        ],
    }
