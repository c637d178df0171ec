"""Facts about factories, machines and what they can take right now."""

from typing import ClassVar, Literal

from pydantic import Field

from aifn_events.base import Event, Payload
from aifn_events.vocabulary import (
    Count,
    CountryCode,
    FactoryId,
    Flag,
    MachineId,
    Moment,
    PartitionId,
    PositiveCount,
    ResourceId,
    Revision,
    Slug,
)


class FactoryDescribed(Event):
    """Who a member of the network is; said again with a higher revision when something changes."""

    topic: ClassVar[str] = "aifn-factory-described-v1"
    key_field: ClassVar[str] = "factory_id"

    factory_id: FactoryId = Field(examples=["lumi-aif"])
    revision: Revision = Field(examples=[0])
    kind: Literal["factory", "antenna"] = Field(examples=["factory"])
    name: str = Field(max_length=200, examples=["LUMI AI Factory"])
    country: CountryCode = Field(examples=["FI"])
    linked_factory_ids: list[FactoryId] = Field(default=[], description="an antenna's hosting factories", examples=[[]])
    sectors: list[str] | None = Field(
        default=None, description="null is unknown, never a mismatch", examples=[["health_life_sciences"]]
    )
    retired: Flag = Field(default=False, examples=[False])


class PartitionPassport(Payload):
    """What a job must know of a partition, and how its time is counted.

    A *slice* is the largest share of a node that measures whole devices and whole cores alike: a node has
    `units_per_node` slices, the least common multiple of both counts. Time is counted in slice-seconds.
    """

    partition_id: PartitionId
    name: str = Field(max_length=200)
    kind: str = Field(max_length=40, description="gpu, cpu, ...")
    stage: str = Field(max_length=40, description="operating, installing, contracted, planned, ...")
    nodes: Count | None
    devices_per_node: Count | None = Field(description="accelerators as the batch system shows them: 8 on LUMI-G")
    gpus_per_node: Count | None = Field(description="accelerators as they are accounted: 4 on LUMI-G")
    cores_per_node: Count | None
    gpu_vendor: str | None = Field(max_length=60)
    gpu_model: str | None = Field(max_length=120)
    gpu_memory_gb: Count | None
    software_stack: str | None = Field(max_length=60, description="rocm, cuda, ...")
    cpu_arch: str | None = Field(max_length=60)
    resource: ResourceId
    units_per_node: PositiveCount = Field(description="slices in one node")


class MachineDescribed(Event):
    """The passport of a machine and its partitions; said again with a higher revision when something changes."""

    topic: ClassVar[str] = "aifn-machine-described-v1"
    key_field: ClassVar[str] = "machine_id"

    machine_id: MachineId = Field(examples=["lumi"])
    revision: Revision = Field(examples=[0])
    name: str = Field(max_length=200, examples=["LUMI"])
    country: CountryCode | None = Field(examples=["FI"])
    factory_ids: list[FactoryId] = Field(examples=[["lumi-aif"]])
    stage: str = Field(max_length=60, examples=["operating"])
    retired: Flag = Field(default=False, examples=[False])
    partitions: list[PartitionPassport] = Field(
        examples=[
            [
                {
                    "partition_id": "lumi-g",
                    "name": "LUMI-G",
                    "kind": "gpu",
                    "stage": "operating",
                    "nodes": 2978,
                    "devices_per_node": 8,
                    "gpus_per_node": 4,
                    "cores_per_node": 64,
                    "gpu_vendor": "AMD",
                    "gpu_model": "Instinct MI250X",
                    "gpu_memory_gb": 128,
                    "software_stack": "rocm",
                    "cpu_arch": "x86_64",
                    "resource": "lumi/lumi-g/gpu-time",
                    "units_per_node": 64,
                }
            ]
        ]
    )


class CapacityReported(Event):
    """What a site agent saw in its batch system; an older observation than the one known is refused."""

    topic: ClassVar[str] = "aifn-capacity-reported-v1"
    key_field: ClassVar[str] = "partition_id"

    machine_id: MachineId = Field(examples=["lumi"])
    partition_id: PartitionId = Field(examples=["lumi-g"])
    observed_at: Moment = Field(examples=["2026-11-21T09:00:00Z"])
    nodes_in_service: Count = Field(description="up, whether idle or busy", examples=[2900])
    nodes_idle: Count = Field(description="without any job", examples=[120])
    slices_idle: Count = Field(description="free shares of nodes in service, idle nodes included", examples=[8000])
    jobs_running: Count = Field(examples=[840])
    jobs_waiting: Count = Field(examples=[12])
    backend: Slug = Field(description="who counted: slurm, simulated", examples=["simulated"])
