"""What both stories know of a partition: how big it is, how its time is counted, what runs on it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Partition:
    """The part of a machine's passport the scheduler reads; None is *not known*."""

    partition_id: str
    machine_id: str
    kind: str
    stage: str
    nodes: int | None
    devices_per_node: int | None
    gpus_per_node: int | None
    cores_per_node: int | None
    software_stack: str | None
    resource: str
    units_per_node: int
    retired: bool = False

    @property
    def operating(self) -> bool:
        """Whether it takes work at all."""
        return self.stage == "operating" and not self.retired


LUMI_G = Partition(
    partition_id="lumi-g",
    machine_id="lumi",
    kind="gpu",
    stage="operating",
    nodes=2978,
    devices_per_node=8,
    gpus_per_node=4,
    cores_per_node=64,
    software_stack="rocm",
    resource="lumi/lumi-g/gpu-time",
    units_per_node=64,
)
"""An example for docstrings: 64 slices to a node, a device is 8 of them."""
