"""What the registry's HTTP interface takes and shows. `null` always means *not known*, never zero and never "no"."""

from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Self

from aifn_events.vocabulary import CountryCode, FactoryId, MachineId, PartitionId, ResourceId, Slug
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from aifn_registry.domain.capacity import Capacity
from aifn_registry.domain.passports import (
    HOUR_SECONDS,
    MAX_CORES_PER_NODE,
    MAX_DEVICES_PER_NODE,
    MAX_NODES,
    Confidence,
    CpuArchitecture,
    Factory,
    FactoryKind,
    Figure,
    FigureName,
    Machine,
    MachineClass,
    MachineStage,
    Partition,
    PartitionKind,
    PartitionStage,
    SoftwareStack,
)


def _exact(value: object) -> object:
    if isinstance(value, float | bool):
        raise ValueError("write an exact number: a whole one, or a decimal in quotes")
    return value


def _plain(value: Decimal) -> str:
    return format(value, "f")


Exact = Annotated[
    Decimal,
    BeforeValidator(_exact),
    Field(gt=0, lt=10**30, max_digits=36, decimal_places=6),
    PlainSerializer(_plain, return_type=str, when_used="json"),
]
Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Prose = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[^\x00]+$")]
Month = Annotated[str, Field(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$", examples=["2024-11"])]
Sources = Annotated[list[Prose], Field(min_length=1, max_length=50, description="where this is known from")]
Percent = Annotated[int, Field(strict=True, ge=0, le=100)]
Nodes = Annotated[int, Field(strict=True, ge=0, le=MAX_NODES)]
Devices = Annotated[int, Field(strict=True, ge=0, le=MAX_DEVICES_PER_NODE)]
Cores = Annotated[int, Field(strict=True, ge=0, le=MAX_CORES_PER_NODE)]
Gigabytes = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
SectorId = Annotated[str, Field(pattern=r"^[a-z]+(_[a-z]+)*$", max_length=60, examples=["health_life_sciences"])]
Round = Annotated[int, Field(strict=True, ge=1, le=99)]

_SOURCE = ["https://docs.lumi-supercomputer.eu/hardware/lumig/"]


class Input(BaseModel):
    """What is sent to us: a field we do not know is a misspelling, and refused."""

    model_config = ConfigDict(extra="forbid")


class FigureFields(BaseModel):
    """A rank, a performance or a price, true for one month."""

    name: FigureName = Field(examples=["top500_rank"])
    value: Exact = Field(description="exact decimal, as text", examples=["8"])
    as_of: Month = Field(description="the month for which it is true", examples=["2024-11"])
    as_of_basis: Prose = Field(description="how the month is known", examples=["list of the month"])
    precision: Line | None = Field(default=None, description="FP64, FP8, ...", examples=[None])
    source: Sources = Field(examples=[["https://top500.org/lists/top500/2024/11/"]])
    confidence: Confidence = Field(examples=["high"])
    note: Prose | None = Field(default=None, examples=[None])


class FigureIn(FigureFields, Input):
    """A dated figure as it is sent."""


class FigureView(FigureFields):
    """A dated figure as it is shown."""


class PartitionFields(BaseModel):
    """The passport of a partition."""

    partition_id: PartitionId = Field(examples=["lumi-g"])
    name: Line = Field(examples=["LUMI-G"])
    kind: PartitionKind = Field(examples=["gpu"])
    stage: PartitionStage = Field(examples=["operating"])
    nodes: Nodes | None = Field(default=None, examples=[2978])
    devices_per_node: Devices | None = Field(
        default=None, description="accelerators as the batch system shows them: 8 on LUMI-G", examples=[8]
    )
    gpus_per_node: Devices | None = Field(
        default=None, description="accelerators as they are accounted: 4 on LUMI-G", examples=[4]
    )
    cores_per_node: Cores | None = Field(default=None, examples=[64])
    gpu_vendor: Line | None = Field(default=None, max_length=60, examples=["AMD"])
    gpu_model: Line | None = Field(default=None, max_length=120, examples=["Instinct MI250X"])
    gpu_memory_gb: Gigabytes | None = Field(default=None, description="of one accounted GPU", examples=[128])
    software_stack: SoftwareStack | None = Field(default=None, examples=["rocm"])
    cpu_arch: CpuArchitecture | None = Field(default=None, examples=["x86_64"])
    cpu_model: Line | None = Field(default=None, examples=["AMD EPYC 7A53"])
    memory_gib_per_node: Gigabytes | None = Field(default=None, examples=[512])
    billing_rule: Prose | None = Field(default=None, description="in the operator's own words", examples=[None])
    source: Sources = Field(examples=[_SOURCE])
    confidence: Confidence = Field(examples=["high"])
    notes: Prose | None = Field(default=None, examples=[None])


class PartitionIn(PartitionFields, Input):
    """A partition as it is described. Its resource and its slices follow from its counts."""

    figures: list[FigureIn] = Field(default=[], max_length=100)

    def of_machine(self, machine_id: MachineId) -> Partition:
        """The domain's value."""
        return Partition(machine_id=machine_id, figures=_figures(self.figures), **_values(self, but={"figures"}))


class CapacityView(BaseModel):
    """What the batch system could take when it was last looked at."""

    observed_at: datetime = Field(examples=["2026-11-21T09:00:00Z"])
    received_at: datetime = Field(examples=["2026-11-21T09:00:01Z"])
    age_seconds: int = Field(description="since the observation, by the clock of this service", examples=[42])
    fresh: bool = Field(description="whether the observation is recent enough to rely on", examples=[True])
    source: str = Field(description="which service said so", examples=["urn:aifn:lumi-aif:siteagent"])
    backend: Slug = Field(description="who counted: slurm, simulated", examples=["simulated"])
    nodes_in_service: int = Field(description="up, whether idle or busy", examples=[2900])
    nodes_idle: int = Field(description="without any job", examples=[120])
    slices_idle: int = Field(description="free shares of nodes in service, idle nodes included", examples=[8000])
    jobs_running: int = Field(examples=[840])
    jobs_waiting: int = Field(examples=[12])

    @classmethod
    def of(cls, capacity: Capacity, *, age_seconds: int, fresh: bool) -> Self:
        """Show an observation with its age."""
        return cls(**asdict(capacity), age_seconds=age_seconds, fresh=fresh)


class PartitionView(PartitionFields):
    """A partition: its passport, and how its time is counted.

    A slice is the largest share of a node that measures whole devices and whole cores alike; time is counted in
    slice-seconds.
    """

    machine_id: MachineId = Field(examples=["lumi"])
    devices: int | None = Field(description="all devices of the partition", examples=[23824])
    resource: ResourceId = Field(examples=["lumi/lumi-g/gpu-time"])
    units_per_node: int = Field(description="slices in one node", examples=[64])
    slices_per_device: int | None = Field(examples=[8])
    slices_per_gpu: int | None = Field(description="slices in one accounted GPU", examples=[16])
    slices_per_core: int | None = Field(examples=[1])
    slice_seconds_per_node_hour: int = Field(examples=[230_400])
    slice_seconds_per_gpu_hour: int | None = Field(description="of one accounted GPU", examples=[57_600])
    unit_fixed: bool = Field(description="it has operated: its slices can no longer change", examples=[True])
    figures: list[FigureView]

    @classmethod
    def of(cls, partition: Partition) -> Self:
        """Show a partition."""
        return cls(**_partition_values(partition))


class LivePartitionView(PartitionView):
    """A partition and what it could take when last seen."""

    capacity: CapacityView | None = Field(description="null: nobody has reported yet")

    @classmethod
    def now(cls, partition: Partition, capacity: CapacityView | None) -> Self:
        """Show a partition with its latest observation."""
        return cls(**_partition_values(partition), capacity=capacity)


def _partition_values(partition: Partition) -> dict[str, Any]:
    per_gpu = partition.slices_per_gpu
    return asdict(partition) | {
        "devices": partition.devices,
        "resource": partition.resource,
        "units_per_node": partition.units_per_node,
        "slices_per_device": partition.slices_per_device,
        "slices_per_gpu": per_gpu,
        "slices_per_core": partition.slices_per_core,
        "slice_seconds_per_node_hour": partition.units_per_node * HOUR_SECONDS,
        "slice_seconds_per_gpu_hour": None if per_gpu is None else per_gpu * HOUR_SECONDS,
    }


class MachineFields(BaseModel):
    """The passport of a machine."""

    name: Line = Field(examples=["LUMI"])
    country: CountryCode | None = Field(default=None, description="where it stands", examples=["FI"])
    stage: MachineStage = Field(examples=["operating"])
    stage_detail: Prose | None = Field(default=None, examples=[None])
    factory_ids: list[FactoryId] = Field(
        default=[], max_length=50, description="who operates it; their operators may change it", examples=[["lumi-aif"]]
    )
    aliases: list[Line] = Field(default=[], max_length=20, examples=[[]])
    site: Line | None = Field(default=None, examples=["Kajaani"])
    hosting_entity: Line | None = Field(default=None, examples=["CSC - IT Center for Science"])
    machine_class: MachineClass | None = Field(default=None, examples=["pre_exascale"])
    union_share_pct: Percent | None = Field(default=None, description="share the Union distributes", examples=[50])
    national_share_pct: Percent | None = Field(default=None, description="share of its hosts", examples=[50])
    share_basis: Prose | None = Field(default=None, examples=[None])
    batch_scheduler: Line | None = Field(default=None, examples=["Slurm"])
    source: Sources = Field(examples=[_SOURCE])
    confidence: Confidence = Field(examples=["high"])
    notes: Prose | None = Field(default=None, examples=[None])


class MachineDescription(MachineFields, Input):
    """A machine as it is described; a description replaces the one before as a whole."""

    figures: list[FigureIn] = Field(default=[], max_length=100)
    partitions: list[PartitionIn] = Field(default=[], max_length=100)

    def of(self, machine_id: MachineId) -> Machine:
        """The domain's value."""
        return Machine(
            machine_id=machine_id,
            figures=_figures(self.figures),
            partitions=tuple(one.of_machine(machine_id) for one in self.partitions),
            **_values(self, but={"machine_id", "figures", "partitions"}),
        )


class MachineRegistration(MachineDescription):
    """A machine that is new to the network."""

    machine_id: MachineId = Field(examples=["lumi"])


class MachineView(MachineFields):
    """A machine with its partitions."""

    machine_id: MachineId = Field(examples=["lumi"])
    revision: int = Field(description="grows with each change; also in the ETag", examples=[0])
    retired: bool = Field(examples=[False])
    retired_reason: str | None = Field(examples=[None])
    figures: list[FigureView]
    partitions: list[PartitionView]

    @classmethod
    def of(cls, machine: Machine) -> Self:
        """Show a machine."""
        values = asdict(machine) | {"partitions": [PartitionView.of(one) for one in machine.partitions]}
        return cls(**values)


class FactoryFields(BaseModel):
    """Who a member of the network is."""

    kind: FactoryKind = Field(examples=["factory"])
    name: Line = Field(examples=["LUMI AI Factory"])
    country: CountryCode = Field(examples=["FI"])
    hosting_entity: Line | None = Field(default=None, examples=["CSC - IT Center for Science"])
    linked_factory_ids: list[FactoryId] | None = Field(
        default=None, max_length=50, description="an antenna's hosting factories", examples=[[]]
    )
    consortium_countries: list[CountryCode] = Field(default=[], max_length=60, examples=[["FI", "EE", "PL"]])
    primary_machine_id: MachineId | None = Field(default=None, examples=["lumi"])
    interim_machine_ids: list[MachineId] = Field(default=[], max_length=20, examples=[[]])
    selection_round: Round | None = Field(default=None, examples=[1])
    sectors: list[SectorId] | None = Field(
        default=None, max_length=20, description="strategic sectors; null is no mismatch", examples=[["public_sector"]]
    )
    sectors_basis: Prose | None = Field(default=None, examples=["country column FI of the sector matrix"])
    focus_keywords: list[Line] = Field(default=[], max_length=50, examples=[["talent pool"]])
    experimental_platform: Annotated[bool, Field(strict=True)] | None = Field(default=None, examples=[True])
    source: Sources = Field(examples=[["EuroHPC JU, AI Factories slide deck (2025)"]])
    confidence: Confidence = Field(examples=["high"])
    notes: Prose | None = Field(default=None, examples=[None])


class FactoryDescription(FactoryFields, Input):
    """A factory or antenna as it is described; a description replaces the one before as a whole."""

    selected_on: date | None = Field(default=None, examples=["2024-12-10"])

    def of(self, factory_id: FactoryId) -> Factory:
        """The domain's value."""
        selected_on = self.selected_on.isoformat() if self.selected_on else None
        return Factory(
            factory_id=factory_id, selected_on=selected_on, **_values(self, but={"factory_id", "selected_on"})
        )


class FactoryRegistration(FactoryDescription):
    """A factory or antenna that is new to the network."""

    factory_id: FactoryId = Field(examples=["lumi-aif"])


class FactoryView(FactoryFields):
    """A factory or antenna."""

    factory_id: FactoryId = Field(examples=["lumi-aif"])
    selected_on: str | None = Field(examples=["2024-12-10"])
    revision: int = Field(description="grows with each change; also in the ETag", examples=[0])
    retired: bool = Field(examples=[False])
    retired_reason: str | None = Field(examples=[None])

    @classmethod
    def of(cls, factory: Factory) -> Self:
        """Show a factory."""
        return cls(**asdict(factory))


class SectorView(BaseModel):
    """A strategic sector, the countries whose column names it, and the factories that serve it."""

    sector_id: SectorId = Field(examples=["health_life_sciences"])
    name: str = Field(examples=["Health & Life Sciences"])
    countries: list[CountryCode] = Field(examples=[["FI", "DE"]])
    factory_ids: list[FactoryId] = Field(examples=[["lumi-aif"]])


class SectorMatrixView(BaseModel):
    """The sector matrix as published. A country that is not in `countries_known` is unknown, never a mismatch."""

    as_of: str = Field(examples=["2025"])
    rule: str = Field(examples=["a factory without a column is unknown, never a mismatch"])
    source: list[str] = Field(examples=[["EuroHPC JU, AI Factories slide deck (2025)"]])
    countries_known: list[CountryCode] = Field(examples=[["AT", "FI"]])
    sectors: list[SectorView]


def _figures(found: list[FigureIn]) -> tuple[Figure, ...]:
    return tuple(Figure(**_values(one, but=set())) for one in found)


def _values(sent: Input, *, but: set[str]) -> dict[str, Any]:
    """What was sent, by name; lists become tuples, as the domain keeps them."""
    sent_values = sent.model_dump(exclude=but)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in sent_values.items()}
