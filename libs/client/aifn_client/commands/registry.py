"""`aifn machine`, `partition` and `factory`: who is in the network, with what, and what is free."""

from typing import Annotated

import typer

from aifn_client import text
from aifn_client.http import path
from aifn_client.models import Capacity, Factory, Figure, Machine, Partition
from aifn_client.screen import (
    ROWS,
    All,
    AsJson,
    Column,
    Limit,
    asking,
    bound,
    print_table,
    show_list,
    show_one,
)

SERVICE = "registry"
machines = typer.Typer(name="machine", help="Machines of the network.", no_args_is_help=True)
partitions = typer.Typer(name="partition", help="Partitions, and what they could take.", no_args_is_help=True)
factories = typer.Typer(name="factory", help="Factories and antennas.", no_args_is_help=True)

Country = Annotated[str | None, typer.Option(help="Two letters, e.g. FI.")]
Vendor = Annotated[str | None, typer.Option("--gpu-vendor", help="AMD, NVIDIA, ...")]
Retired = Annotated[bool, typer.Option("--retired", help="Those taken out of the network instead.")]
Stage = Annotated[str | None, typer.Option(help="operating, planned, ...")]


def _nodes(machine: Machine) -> object:
    known = [one.nodes for one in machine.partitions if one.nodes is not None]
    return sum(known) if known else None


def _seen(partition: Partition) -> str:
    seen = partition.capacity
    return "never" if seen is None else text.age(seen.age_seconds) + ("" if seen.fresh else ", stale")


def _idle(partition: Partition) -> object:
    seen = partition.capacity
    return None if seen is None else text.ratio(seen.nodes_idle, seen.nodes_in_service)


_MACHINES = (
    Column[Machine]("machine", lambda one: one.machine_id, whole=True),
    Column[Machine]("name", lambda one: one.name, wide=True),
    Column[Machine]("in", lambda one: one.country),
    Column[Machine]("stage", lambda one: one.stage),
    Column[Machine]("factories", lambda one: one.factory_ids),
    Column[Machine]("nodes", _nodes, right=True),
    Column[Machine]("partitions", lambda one: [part.partition_id for part in one.partitions]),
)
_PARTITIONS = (
    Column[Partition]("partition", lambda one: one.partition_id, whole=True),
    Column[Partition]("machine", lambda one: one.machine_id),
    Column[Partition]("kind", lambda one: one.kind, wide=True),
    Column[Partition]("stage", lambda one: one.stage, wide=True),
    Column[Partition](
        "devices per node", lambda one: text.product(one.devices_per_node, one.gpu_vendor, one.gpu_model)
    ),
    Column[Partition]("nodes", lambda one: one.nodes, right=True),
    Column[Partition]("idle", _idle, right=True),
    Column[Partition]("waiting", lambda one: one.capacity and one.capacity.jobs_waiting, right=True),
    Column[Partition]("seen", _seen),
)
_OF_MACHINE = (
    Column[Partition]("partition", lambda one: one.partition_id, whole=True),
    Column[Partition]("stage", lambda one: one.stage),
    Column[Partition]("nodes", lambda one: one.nodes, right=True),
    Column[Partition](
        "devices per node", lambda one: text.product(one.devices_per_node, one.gpu_vendor, one.gpu_model)
    ),
    Column[Partition]("cores per node", lambda one: one.cores_per_node, right=True),
    Column[Partition]("resource", lambda one: one.resource, wide=True),
)
_FIGURES = (
    Column[Figure]("figure", lambda one: one.name),
    Column[Figure]("value", lambda one: one.value, right=True),
    Column[Figure]("as of", lambda one: one.as_of),
)
_FACTORIES = (
    Column[Factory]("factory", lambda one: one.factory_id, whole=True),
    Column[Factory]("kind", lambda one: one.kind),
    Column[Factory]("name", lambda one: one.name),
    Column[Factory]("in", lambda one: one.country),
    Column[Factory]("machine", lambda one: one.primary_machine_id or one.interim_machine_ids),
    Column[Factory]("sectors", lambda one: one.sectors, wide=True),
)


@machines.command("list")
def list_machines(
    context: typer.Context,
    stage: Stage = None,
    country: Country = None,
    factory: Annotated[str | None, typer.Option(help="Operated by this factory.")] = None,
    gpu_vendor: Vendor = None,
    retired: Retired = False,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Machines with their partitions."""
    with asking(context) as aifn:
        found = aifn.many(
            Machine, SERVICE, "/v1/machines", at_most=bound(limit, everything),
            stage=stage, country=country, factory=factory, gpu_vendor=gpu_vendor, retired=retired or None,
        )  # fmt: skip
        show_list(found, _MACHINES, as_json=as_json, limit=limit, everything=everything, nothing="no machine fits")


@machines.command("show")
def show_machine(context: typer.Context, machine_id: str, as_json: AsJson = False) -> None:
    """One machine: its passport, partitions and dated figures."""
    with asking(context) as aifn:
        one = aifn.one(Machine, SERVICE, path("/v1/machines/{}", machine_id))
        rows = (
            ("machine", one.machine_id),
            ("name", one.name),
            ("country", one.country),
            ("site", one.site),
            ("hosted by", one.hosting_entity),
            ("stage", "retired" if one.retired else one.stage),
            ("factories", one.factory_ids),
            ("batch system", one.batch_scheduler),
            ("shares", _shares(one)),
            ("source", text.lines(one.source)),
        )
        show_one(one, rows, as_json=as_json)
        if not as_json and one.partitions:
            print_table(one.partitions, _OF_MACHINE, title="partitions")
        if not as_json and one.figures:
            print_table(one.figures, _FIGURES, title="figures, each true for its month")


def _shares(machine: Machine) -> str | None:
    if machine.union_share_pct is None or machine.national_share_pct is None:
        return None
    return f"{machine.union_share_pct} % Union, {machine.national_share_pct} % hosts"


@partitions.command("list")
def list_partitions(
    context: typer.Context,
    machine: Annotated[str | None, typer.Option(help="Only of this machine.")] = None,
    kind: Annotated[str | None, typer.Option(help="gpu, cpu, ...")] = None,
    stage: Stage = None,
    country: Country = None,
    gpu_vendor: Vendor = None,
    min_devices: Annotated[int | None, typer.Option(min=1, help="At least so many devices.")] = None,
    min_nodes: Annotated[int | None, typer.Option(min=1, help="At least so many nodes.")] = None,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Partitions and what they could take when last seen. Idle: nodes without a job, of those in service."""
    with asking(context) as aifn:
        found = aifn.many(
            Partition, SERVICE, "/v1/partitions", at_most=bound(limit, everything),
            machine=machine, kind=kind, stage=stage, country=country, gpu_vendor=gpu_vendor,
            min_devices=min_devices, min_nodes=min_nodes,
        )  # fmt: skip
        show_list(found, _PARTITIONS, as_json=as_json, limit=limit, everything=everything, nothing="no partition fits")


@partitions.command("show")
def show_partition(context: typer.Context, partition_id: str, as_json: AsJson = False) -> None:
    """One partition: its passport, how its time is counted, and its latest observation."""
    with asking(context) as aifn:
        one = aifn.one(Partition, SERVICE, path("/v1/partitions/{}", partition_id))
        rows = (
            ("partition", one.partition_id),
            ("machine", one.machine_id),
            ("kind", one.kind),
            ("stage", one.stage),
            ("nodes", one.nodes),
            ("devices per node", text.product(one.devices_per_node, one.gpu_vendor, one.gpu_model)),
            ("GPUs per node", one.gpus_per_node and f"{one.gpus_per_node}, as they are accounted"),
            ("GPU memory", one.gpu_memory_gb and f"{one.gpu_memory_gb} GB"),
            ("cores per node", text.product(one.cores_per_node, one.cpu_model)),
            ("memory per node", one.memory_gib_per_node and f"{one.memory_gib_per_node} GiB"),
            ("software stack", one.software_stack),
            ("resource", one.resource),
            ("slices per node", one.units_per_node),
            *_observation(one.capacity),
            ("source", text.lines(one.source)),
        )
        show_one(one, rows, as_json=as_json)


def _observation(seen: Capacity | None) -> tuple[tuple[str, object], ...]:
    if seen is None:
        return (("capacity", "nobody has reported yet"),)
    return (
        ("nodes idle", f"{seen.nodes_idle} of {seen.nodes_in_service} in service"),
        ("jobs", f"{seen.jobs_running} running, {seen.jobs_waiting} waiting"),
        ("observed", f"{text.moment(seen.observed_at)} by {seen.source}" + ("" if seen.fresh else ", stale")),
    )


@factories.command("list")
def list_factories(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option(help="factory or antenna.")] = None,
    country: Country = None,
    sector: Annotated[str | None, typer.Option(help="Known to serve this strategic sector.")] = None,
    retired: Retired = False,
    limit: Limit = ROWS,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Factories and antennas."""
    with asking(context) as aifn:
        found = aifn.many(
            Factory, SERVICE, "/v1/factories", at_most=bound(limit, everything),
            kind=kind, country=country, sector=sector, retired=retired or None,
        )  # fmt: skip
        show_list(found, _FACTORIES, as_json=as_json, limit=limit, everything=everything, nothing="no factory fits")


@factories.command("show")
def show_factory(context: typer.Context, factory_id: str, as_json: AsJson = False) -> None:
    """One factory or antenna."""
    with asking(context) as aifn:
        one = aifn.one(Factory, SERVICE, path("/v1/factories/{}", factory_id))
        rows = (
            ("factory", one.factory_id),
            ("name", one.name),
            ("kind", "retired" if one.retired else one.kind),
            ("country", one.country),
            ("consortium", one.consortium_countries),
            ("hosted by", one.hosting_entity),
            ("machine", one.primary_machine_id),
            ("until then", one.interim_machine_ids),
            ("linked to", one.linked_factory_ids),
            ("sectors", one.sectors),
            ("focus", one.focus_keywords),
            ("selected", one.selected_on),
            ("source", text.lines(one.source)),
        )
        show_one(one, rows, as_json=as_json)
