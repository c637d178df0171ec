"""FOCUS 1.2, the open format of the FinOps Foundation for what computing costs, of computing that nobody pays for.

One row is what one allocation used on one UTC day. Nothing is billed, so BilledCost, EffectiveCost and ContractedCost
are 0. ListCost is what the hours would cost by the operator's table of values; where that has nothing, ListUnitPrice is
null and ListCost is 0, as the format asks when a unit price is null. A row is the present truth: a later export of the
same month takes the place of an earlier one.

Source: FOCUS Specification, version 1.2, columns of the cost and usage dataset.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

from aifn_accounting.exports.parquet import Kind
from aifn_accounting.exports.tables import Row

COLUMNS: dict[str, Kind] = {
    "AvailabilityZone": "text",
    "BilledCost": "decimal",
    "BillingAccountId": "text",
    "BillingAccountName": "text",
    "BillingAccountType": "text",
    "BillingCurrency": "text",
    "BillingPeriodEnd": "moment",
    "BillingPeriodStart": "moment",
    "ChargeCategory": "text",
    "ChargeClass": "text",
    "ChargeDescription": "text",
    "ChargeFrequency": "text",
    "ChargePeriodEnd": "moment",
    "ChargePeriodStart": "moment",
    "ConsumedQuantity": "decimal",
    "ConsumedUnit": "text",
    "ContractedCost": "decimal",
    "ContractedUnitPrice": "decimal",
    "EffectiveCost": "decimal",
    "InvoiceId": "text",
    "InvoiceIssuerName": "text",
    "ListCost": "decimal",
    "ListUnitPrice": "decimal",
    "PricingCategory": "text",
    "PricingCurrency": "text",
    "PricingQuantity": "decimal",
    "PricingUnit": "text",
    "ProviderName": "text",
    "PublisherName": "text",
    "RegionId": "text",
    "RegionName": "text",
    "ResourceId": "text",
    "ResourceName": "text",
    "ResourceType": "text",
    "ServiceCategory": "text",
    "ServiceName": "text",
    "ServiceSubcategory": "text",
    "SkuId": "text",
    "SkuMeter": "text",
    "SkuPriceId": "text",
    "SubAccountId": "text",
    "SubAccountName": "text",
    "SubAccountType": "text",
    "Tags": "text",
}
_PLACES = Decimal("0.000001")
_ZERO = Decimal("0.000000")
_UNVALUED = "EUR"
"""The currency of a row in which every amount is 0: a currency may not be missing."""


@dataclass(frozen=True)
class DayUse:
    """What one allocation used on one UTC day, and what an hour was worth then (None: nobody has said)."""

    day: date
    factory_id: str
    project_id: str
    project_title: str
    allocation_id: str
    resource: str
    amount: int
    units_per_node: int | None
    gpus_per_node: int | None
    value_unit: str | None
    value: Decimal | None
    currency: str | None
    tags: str


def hours(amount: int, units_per_node: int, per_node: int) -> Decimal:
    """Slice-seconds as hours of nodes (`per_node` 1) or of GPUs, to a millionth.

    >>> hours(64 * 3600, 64, 4)
    Decimal('4.000000')
    """
    return (Decimal(amount) * per_node / (units_per_node * 3600)).quantize(_PLACES, ROUND_HALF_EVEN)


def row(use: DayUse) -> Row:
    """One row of the dataset. ListCost is exactly ListUnitPrice times PricingQuantity, to a millionth."""
    start = datetime.combine(use.day, datetime.min.time(), UTC)
    month = start.replace(day=1)
    machine, partition, _ = use.resource.split("/")
    gpus = use.gpus_per_node if use.resource.endswith("/gpu-time") else None
    quantity, unit = Decimal(use.amount), "Slice-Seconds"
    if use.units_per_node:
        by_gpu = bool(gpus) if use.value_unit is None else use.value_unit == "gpu-hour"
        quantity = hours(use.amount, use.units_per_node, (gpus or 0) if by_gpu else 1)
        unit = "GPU-Hours" if by_gpu else "Node-Hours"
    price = use.value if use.units_per_node else None
    return {
        "AvailabilityZone": None,
        "BilledCost": _ZERO,
        "BillingAccountId": use.factory_id,
        "BillingAccountName": use.factory_id,
        "BillingAccountType": "AI Factory",
        "BillingCurrency": use.currency or _UNVALUED,
        "BillingPeriodEnd": (month + timedelta(days=32)).replace(day=1),
        "BillingPeriodStart": month,
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"{use.resource} used by {use.project_id}, from {use.allocation_id}",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": start + timedelta(days=1),
        "ChargePeriodStart": start,
        "ConsumedQuantity": quantity,
        "ConsumedUnit": unit,
        "ContractedCost": _ZERO,
        "ContractedUnitPrice": None,
        "EffectiveCost": _ZERO,
        "InvoiceId": None,
        "InvoiceIssuerName": use.factory_id,
        "ListCost": _ZERO if price is None else (price * quantity).quantize(_PLACES, ROUND_HALF_EVEN),
        "ListUnitPrice": price,
        "PricingCategory": "Standard",
        "PricingCurrency": use.currency or _UNVALUED,
        "PricingQuantity": quantity,
        "PricingUnit": unit,
        "ProviderName": use.factory_id,
        "PublisherName": use.factory_id,
        "RegionId": machine,
        "RegionName": machine,
        "ResourceId": use.allocation_id,
        "ResourceName": use.allocation_id,
        "ResourceType": "Allocation",
        "ServiceCategory": "Compute",
        "ServiceName": partition,
        "ServiceSubcategory": "Other (Compute)",
        "SkuId": use.resource,
        "SkuMeter": unit,
        "SkuPriceId": use.resource if price is not None else None,
        "SubAccountId": use.project_id,
        "SubAccountName": use.project_title,
        "SubAccountType": "Project",
        "Tags": use.tags,
    }
