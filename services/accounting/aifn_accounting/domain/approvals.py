"""When one person's word is not enough. Pure."""

from collections.abc import Mapping

NODE_HOUR = "node-hour"
_HOUR_SECONDS = 3600


def needs_second_person(amount: int, *, unit: str, units_per_node: int | None, limits: Mapping[str, int]) -> bool:
    """Whether an amount is above the limit for its unit; a unit without a limit needs nobody else.

    Compute is limited in node-hours of its partition, everything else in its own unit.

    >>> needs_second_person(64 * 3600 * 11, unit="slice-second", units_per_node=64, limits={"node-hour": 10})
    True
    """
    if units_per_node is not None and NODE_HOUR in limits:
        return amount > limits[NODE_HOUR] * units_per_node * _HOUR_SECONDS
    return unit in limits and amount > limits[unit]
