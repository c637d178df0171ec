"""From the records of the seed files to what the registry keeps: one word for one idea on both sides."""

from decimal import Decimal
from typing import Any

from aifn_registry import seed
from aifn_registry.domain.passports import Factory, Figure, Machine, Partition


def factories() -> list[Factory]:
    """The factories, then the antennas, of the first day."""
    loaded = seed.load()
    return [*(_factory(one) for one in loaded.factories), *(_antenna(one) for one in loaded.antennas)]


def machines() -> list[Machine]:
    """The machines of the first day with their partitions."""
    return [_machine(one) for one in seed.load().machines]


def references() -> dict[str, dict[str, Any]]:
    """The tables nobody changes by API, by name: the sector matrix and the comparison."""
    loaded = seed.load()
    return {
        "sectors": loaded.sectors.model_dump(mode="json"),
        "comparison": loaded.comparison.model_dump(mode="json"),
    }


def _factory(one: seed.Factory) -> Factory:
    return Factory(
        factory_id=one.factory_id,
        kind="factory",
        name=one.name,
        country=one.country_code,
        hosting_entity=one.hosting_entity,
        linked_factory_ids=(),
        consortium_countries=one.consortium_country_codes,
        primary_machine_id=one.primary_machine_id,
        interim_machine_ids=one.interim_machine_ids,
        selection_round=one.selection_round,
        selected_on=one.selected_on,
        sectors=one.strategic_sectors,
        sectors_basis=one.strategic_sectors_basis,
        focus_keywords=one.focus_keywords,
        experimental_platform=one.experimental_platform,
        source=one.source,
        confidence=one.confidence,
        notes=one.notes,
    )


def _antenna(one: seed.Antenna) -> Factory:
    return Factory(
        factory_id=one.antenna_id,
        kind="antenna",
        # Some antennas have no published name; people still need something to read.
        name=one.name or f"AI Factory Antenna, {one.country}",
        country=one.country_code,
        linked_factory_ids=one.linked_factory_ids,
        source=one.source,
        confidence=one.confidence,
        notes=one.notes,
    )


def _machine(one: seed.Machine) -> Machine:
    return Machine(
        machine_id=one.machine_id,
        name=one.name,
        country=one.country_code,
        stage=one.stage,
        factory_ids=one.factory_ids,
        aliases=one.aliases,
        site=one.site,
        hosting_entity=one.hosting_entity,
        machine_class=one.machine_class,
        stage_detail=one.stage_detail,
        union_share_pct=one.share.union_pct,
        national_share_pct=one.share.national_pct,
        share_basis=one.share.basis,
        batch_scheduler=one.batch_scheduler,
        figures=_figures(one.figures),
        source=one.source,
        confidence=one.confidence,
        notes=one.notes,
        partitions=tuple(_partition(one.machine_id, part) for part in one.partitions),
    )


def _partition(machine_id: str, one: seed.Partition) -> Partition:
    return Partition(
        partition_id=one.partition_id,
        machine_id=machine_id,
        name=one.name,
        kind=one.kind,
        stage=one.stage,
        nodes=one.nodes,
        devices_per_node=one.devices_per_node,
        gpus_per_node=one.gpus_per_node,
        cores_per_node=one.cores_per_node,
        gpu_vendor=one.gpu_vendor,
        gpu_model=one.gpu_model,
        gpu_memory_gb=one.gpu_memory_gb_per_gpu,
        software_stack=one.gpu_software_stack,
        cpu_arch=one.cpu_arch,
        cpu_model=one.cpu_model,
        memory_gib_per_node=one.memory_gib_per_node,
        billing_rule=one.billing_rule,
        figures=_figures(one.figures),
        source=one.source,
        confidence=one.confidence,
        notes=one.notes,
    )


def _figures(found: tuple[seed.Figure, ...]) -> tuple[Figure, ...]:
    return tuple(
        Figure(
            name=one.name,
            value=Decimal(one.value),
            as_of=one.as_of,
            as_of_basis=one.as_of_basis,
            source=one.source,
            confidence=one.confidence,
            precision=one.precision,
            note=one.note,
        )
        for one in found
    )
