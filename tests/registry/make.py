"""Builders, so that a test says only what it is about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from aifn_common import clock
from aifn_events.registry import CapacityReported
from aifn_registry.domain.capacity import Capacity
from aifn_registry.domain.passports import Factory, Machine, Partition

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def partition(partition_id: str = "lumi-g", **values: Any) -> Partition:
    """LUMI-G, unless told otherwise."""
    known = Partition(
        partition_id=partition_id,
        machine_id="lumi",
        name=partition_id.upper(),
        kind="gpu",
        stage="operating",
        nodes=2978,
        devices_per_node=8,
        gpus_per_node=4,
        cores_per_node=64,
        source=("a test",),
    )
    return replace(known, **values)


def machine(*partitions: Partition, **values: Any) -> Machine:
    """LUMI with these partitions."""
    known = Machine(
        "lumi", "LUMI", "FI", "operating", factory_ids=("lumi-aif",), source=("a test",), partitions=partitions
    )
    return replace(known, **values)


def factory(factory_id: str = "lumi-aif", **values: Any) -> Factory:
    """The LUMI AI Factory, unless told otherwise."""
    return replace(Factory(factory_id, "factory", factory_id.upper(), "FI", source=("a test",)), **values)


def capacity(**values: Any) -> Capacity:
    """What was seen of LUMI-G at noon, received at once."""
    seen = Capacity(
        partition_id="lumi-g",
        observed_at=NOON,
        received_at=NOON,
        source="urn:aifn:lumi-aif:siteagent",
        backend="simulated",
        nodes_in_service=2900,
        nodes_idle=100,
        slices_idle=6400,
        jobs_running=5,
        jobs_waiting=0,
    )
    return replace(seen, **values)


def report(*, seconds_ago: int = 0, **values: Any) -> CapacityReported:
    """A report on LUMI-G."""
    observed_at = clock.now() - timedelta(seconds=seconds_ago)
    return CapacityReported.example(observed_at=observed_at, **values)


def machine_words(machine_id: str = "puhti", **values: Any) -> dict[str, Any]:
    """A machine as somebody would send it to be registered."""
    words: dict[str, Any] = {
        "machine_id": machine_id,
        "name": machine_id.capitalize(),
        "country": "FI",
        "stage": "operating",
        "factory_ids": ["lumi-aif"],
        "source": ["its operator"],
        "confidence": "high",
        "partitions": [partition_words(f"{machine_id}-gpu")],
    }
    return words | values


def partition_words(partition_id: str, **values: Any) -> dict[str, Any]:
    """A partition as somebody would describe it: 80 nodes of 4 GPUs and 40 cores."""
    words: dict[str, Any] = {
        "partition_id": partition_id,
        "name": partition_id,
        "kind": "gpu",
        "stage": "operating",
        "nodes": 80,
        "devices_per_node": 4,
        "gpus_per_node": 4,
        "cores_per_node": 40,
        "gpu_vendor": "NVIDIA",
        "source": ["its operator"],
        "confidence": "high",
    }
    return words | values


def factory_words(factory_id: str = "new-aif", **values: Any) -> dict[str, Any]:
    """A factory as somebody would send it to be registered."""
    words: dict[str, Any] = {
        "factory_id": factory_id,
        "kind": "factory",
        "name": "New AI Factory",
        "country": "EE",
        "source": ["its administrator"],
        "confidence": "high",
    }
    return words | values
