"""What the registry knows on its first day: factories, antennas, machines, sectors, countries, comparison tables.

The JSON files of the folder `seed` are data with sources and confidence, never constants of the code. `null` means
*not found*, which is neither "no" nor zero.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Confidence = Literal["high", "medium", "low"]
CountryCode = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
Identifier = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Month = Annotated[str, Field(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$")]
Sources = Annotated[tuple[str, ...], Field(min_length=1)]
SectorId = Annotated[str, Field(pattern=r"^[a-z]+(_[a-z]+)*$")]
Count = Annotated[int, Field(ge=1)]
Percent = Annotated[int, Field(ge=0, le=100)]


class Record(BaseModel):
    """A value of the seed: immutable, and an unknown field is an error, so that nothing is lost by a misspelling."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Fact(Record):
    """One sentence and where it comes from."""

    fact: str
    source: Sources


class Figure(Record):
    """A rank, a performance or a price, true for one month; `value` is exact, FLOP/s included."""

    name: Literal[
        "top500_rank", "green500_rank", "sustained_flops", "peak_flops", "ai_peak_flops", "acquisition_value_eur"
    ]
    value: int | Decimal
    as_of: Month
    as_of_basis: str
    precision: str | None
    source: Sources
    confidence: Confidence
    note: str | None


class MemoryVariant(Record):
    """How many nodes of a partition have how much memory."""

    nodes: Count
    memory_gib_per_node: Count


class Partition(Record):
    """A part of a machine with one kind of node.

    `devices_per_node` is what the batch system shows, `gpus_per_node` what the accounting counts: 8 and 4 on LUMI-G.
    """

    partition_id: Identifier
    name: str
    kind: Literal["gpu", "gpu_cloud", "cpu", "cpu_large_memory", "cpu_experimental", "fpga", "visualisation"]
    stage: Literal["operating", "installing", "contracted", "planned"]
    nodes: Count | None
    devices_per_node: Count | None
    gpus_per_node: Count | None
    gpus_total: Count | None
    cores_per_node: Count | None
    gpu_vendor: str | None
    gpu_model: str | None
    gpu_memory_gb_per_gpu: Count | None
    gpu_software_stack: Literal["cuda", "rocm"] | None
    cpu_arch: Literal["x86_64", "aarch64"] | None
    cpu_model: str | None
    memory_gib_per_node: Count | None
    memory_variants: tuple[MemoryVariant, ...] | None
    gpu_hours_per_node_hour: Count | None
    billing_rule: str | None
    figures: tuple[Figure, ...]
    source: Sources
    confidence: Confidence
    notes: str | None

    @model_validator(mode="after")
    def _gpus_add_up(self) -> Self:
        if self.nodes and self.gpus_per_node and self.gpus_total != self.nodes * self.gpus_per_node:
            raise ValueError(f"{self.partition_id}: {self.nodes} x {self.gpus_per_node} is not {self.gpus_total} GPUs")
        return self


class Share(Record):
    """How a machine's year is split between the Union and its hosts, in percent."""

    union_pct: Percent | None
    national_pct: Percent | None
    basis: str | None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.union_pct is not None and self.national_pct is not None and self.union_pct + self.national_pct != 100:
            raise ValueError(f"shares {self.union_pct} and {self.national_pct} are not 100 percent")
        return self


class Machine(Record):
    """A supercomputer, operating or to come. A new one may have no partition yet."""

    machine_id: Identifier
    name: str
    aliases: tuple[str, ...]
    country_code: CountryCode
    country: str
    site: str | None
    hosting_entity: str | None
    machine_class: Literal["exascale", "pre_exascale", "petascale", "mid_range", "ai_optimised", "development_platform"]
    stage: Literal["operating", "installing", "contracted", "procurement", "planned", "absorbed_into_jupiter"]
    stage_detail: str | None
    factory_ids: tuple[Identifier, ...]
    share: Share
    batch_scheduler: str | None
    batch_scheduler_confidence: Confidence | None
    figures: tuple[Figure, ...]
    source: Sources
    confidence: Confidence
    notes: str | None
    partitions: tuple[Partition, ...]


class Factory(Record):
    """An AI Factory: who hosts it, with whom, on which machines. Sectors `None`: no column in the matrix, unknown."""

    factory_id: Identifier
    name: str
    country_code: CountryCode
    country: str
    hosting_entity: str
    consortium_country_codes: tuple[CountryCode, ...]
    primary_machine_id: Identifier
    interim_machine_ids: tuple[Identifier, ...]
    selection_round: Annotated[int, Field(ge=1, le=3)]
    selected_on: Annotated[str, Field(pattern=r"^20\d{2}-\d{2}-\d{2}$")]
    in_first_thirteen: bool
    strategic_sectors: tuple[SectorId, ...] | None
    strategic_sectors_basis: str
    focus_keywords: tuple[str, ...]
    experimental_platform: bool | None
    source: Sources
    confidence: Confidence
    notes: str | None


class Antenna(Record):
    """A national antenna: remote access through a hosting factory. Linked factories `None`: not found."""

    antenna_id: Identifier
    name: str | None
    country_code: CountryCode
    country: str
    eu_member_state: bool
    linked_factory_ids: tuple[Identifier, ...] | None
    own_supercomputer: bool
    source: Sources
    confidence: Confidence
    notes: str | None


class FactoryCounts(Record):
    """Totals as published; the test holds the records against them."""

    factories_first_thirteen: Count
    factories_total: Count
    antennas_total: Count
    host_member_states: Count
    first_thirteen_member_states: Count
    first_thirteen_other_participating_states: Count


class Sector(Record):
    """One of the ten strategic sectors."""

    sector_id: SectorId
    name: str
    source: Sources


class SectorColumn(Record):
    """One country column of the sector matrix; `column` is its printed head (EL), `country_code` the country (GR)."""

    column: CountryCode
    country_code: CountryCode
    sectors: tuple[SectorId, ...]


class Country(Record):
    """Membership in three different lists. `None` is *not known here*: treat as "not yet", never as "no"."""

    country_code: CountryCode
    name: str
    aliases: tuple[str, ...]
    eu_member_state: bool
    ju_participating_state_2024_09: bool
    horizon_europe_associated: bool
    horizon_europe_from: str | None
    digital_europe_associated: bool | None
    note: str | None


class PrivateCluster(Record):
    """A private cluster, for comparison only."""

    name: str
    stage: str
    fp16_flops: Decimal
    chip: str
    chips: Count


class PrivateClusters(Record):
    """The table of private clusters; its source marks it as not verified."""

    as_of: Month
    source: Sources
    verified: bool
    rows: tuple[PrivateCluster, ...]


class PublicInfrastructure(Record):
    """A public programme, in the words of its source."""

    name: str
    budget: str
    performance: str
    purpose: str


class PublicInfrastructures(Record):
    """The table of public programmes."""

    as_of: Month
    source: Sources
    rows: tuple[PublicInfrastructure, ...]


class Sizes(Record):
    """How large factories and gigafactories are meant to be."""

    as_of: str
    source: Sources
    largest_factories_processors: Count
    gigafactory_processors_more_than: Count
    gigafactories: str
    gigafactory_investment_eur_bn: tuple[Count, Count]
    gigafactory_power_mw: tuple[Count, Count]
    factory_investment_cap_eur_m: Count


class _File(Record):
    schema_version: Literal[1]
    as_of: str


class Comparison(_File):
    """Tables for comparison pages; no decision reads them."""

    rule: str
    private_clusters: PrivateClusters
    public_infrastructures: PublicInfrastructures
    sizes: Sizes


class _Machines(_File):
    conventions: dict[str, str]
    facts_for_conversion: tuple[Fact, ...]
    machines: tuple[Machine, ...]


class _Factories(_File):
    counts: FactoryCounts
    antenna_rules: tuple[Fact, ...]
    scale_facts: tuple[Fact, ...]
    factories: tuple[Factory, ...]
    antennas: tuple[Antenna, ...]


class SectorMatrix(_File):
    """Ten sectors by country; a country without a column is unknown, never a mismatch."""

    rule: str
    source: Sources
    sectors: tuple[Sector, ...]
    columns: tuple[SectorColumn, ...]

    def of_country(self, country_code: str) -> tuple[SectorId, ...] | None:
        """The sectors of a country by its own code or by the head of its column; None if it has no column."""
        for column in self.columns:
            if country_code in (column.country_code, column.column):
                return column.sectors
        return None


class _Countries(_File):
    as_of_note: str
    rule: str
    source: Sources
    countries: tuple[Country, ...]


class Seed(Record):
    """All of it, checked: identifiers are unique and every reference leads somewhere."""

    as_of: str
    conventions: dict[str, str]
    facts_for_conversion: tuple[Fact, ...]
    machines: tuple[Machine, ...]
    counts: FactoryCounts
    antenna_rules: tuple[Fact, ...]
    scale_facts: tuple[Fact, ...]
    factories: tuple[Factory, ...]
    antennas: tuple[Antenna, ...]
    sectors: SectorMatrix
    comparison: Comparison
    countries: tuple[Country, ...]

    @property
    def partitions(self) -> tuple[Partition, ...]:
        """Every partition of every machine."""
        return tuple(partition for machine in self.machines for partition in machine.partitions)

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        problems = [*_twice(self), *_dangling(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _twice(seed: Seed) -> list[str]:
    """Identifiers used more than once."""
    identifiers = {
        "machine": [machine.machine_id for machine in seed.machines],
        "partition": [partition.partition_id for partition in seed.partitions],
        "member": [f.factory_id for f in seed.factories] + [a.antenna_id for a in seed.antennas],
        "sector": [sector.sector_id for sector in seed.sectors.sectors],
        "sector column": [column.country_code for column in seed.sectors.columns],
        "country": [country.country_code for country in seed.countries],
    }
    return [
        f"{what} {name} is there {times} times"
        for what, names in identifiers.items()
        for name, times in Counter(names).items()
        if times > 1
    ]


def _dangling(seed: Seed) -> list[str]:
    """References to a machine, factory, sector or country that is not in the seed."""
    machines = {machine.machine_id for machine in seed.machines}
    factories = {factory.factory_id for factory in seed.factories}
    sectors = {sector.sector_id for sector in seed.sectors.sectors}
    countries = {country.country_code for country in seed.countries}
    references: list[tuple[str, set[str], tuple[str, ...]]] = []
    for machine in seed.machines:
        references.append((machine.machine_id, factories, machine.factory_ids))
        references.append((machine.machine_id, countries, (machine.country_code,)))
    for factory in seed.factories:
        references.append((factory.factory_id, machines, (factory.primary_machine_id, *factory.interim_machine_ids)))
        references.append((factory.factory_id, sectors, factory.strategic_sectors or ()))
        references.append((factory.factory_id, countries, (factory.country_code, *factory.consortium_country_codes)))
    for antenna in seed.antennas:
        references.append((antenna.antenna_id, factories, antenna.linked_factory_ids or ()))
        references.append((antenna.antenna_id, countries, (antenna.country_code,)))
    for column in seed.sectors.columns:
        references.append((f"sector column {column.column}", sectors, column.sectors))
        references.append((f"sector column {column.column}", countries, (column.country_code,)))
    return [f"{who} names unknown {name}" for who, known, names in references for name in names if name not in known]


@cache
def load() -> Seed:
    """Read and check the seed that comes with the package. Raises pydantic.ValidationError if it does not hold."""
    machines = _Machines.model_validate_json(_text("machines.json"))
    factories = _Factories.model_validate_json(_text("factories.json"))
    return Seed(
        as_of=machines.as_of,
        conventions=machines.conventions,
        facts_for_conversion=machines.facts_for_conversion,
        machines=machines.machines,
        counts=factories.counts,
        antenna_rules=factories.antenna_rules,
        scale_facts=factories.scale_facts,
        factories=factories.factories,
        antennas=factories.antennas,
        sectors=SectorMatrix.model_validate_json(_text("sectors.json")),
        comparison=Comparison.model_validate_json(_text("comparison.json")),
        countries=_Countries.model_validate_json(_text("countries.json")).countries,
    )


def _text(name: str) -> str:
    return files("aifn_registry").joinpath("seed", name).read_text(encoding="utf-8")
