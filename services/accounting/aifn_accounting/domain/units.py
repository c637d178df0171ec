"""Hours for people: made from the ledger's slice-seconds, for views only.

A node has `units_per_node` slices, so that whole devices and whole cores are whole numbers of slices.
"""

from decimal import ROUND_HALF_EVEN, Decimal

_HOUR_SECONDS = 3600
_SHOWN = Decimal("0.001")


def node_hours(amount: int, units_per_node: int) -> Decimal:
    """Slice-seconds as hours of whole nodes, to a thousandth.

    >>> node_hours(64 * 3600, units_per_node=64)
    Decimal('1.000')
    """
    return _rounded(Decimal(amount) / (units_per_node * _HOUR_SECONDS))


def gpu_hours(amount: int, units_per_node: int, gpus_per_node: int) -> Decimal:
    """Slice-seconds as hours of GPUs as they are accounted, to a thousandth; LUMI-G has 4 of them in a node.

    >>> gpu_hours(8 * 3600, units_per_node=64, gpus_per_node=4)  # one device of eight
    Decimal('0.500')
    """
    return _rounded(Decimal(amount) * gpus_per_node / (units_per_node * _HOUR_SECONDS))


def _rounded(hours: Decimal) -> Decimal:
    return hours.quantize(_SHOWN, ROUND_HALF_EVEN)
