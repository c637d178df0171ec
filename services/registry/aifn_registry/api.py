"""What the registry answers: who is in the network, with which machines, and what they could take when last seen."""

from typing import Annotated, Any

from aifn_common import clock
from aifn_common.problems import PROBLEM
from aifn_common.web import (
    Page,
    Paging,
    Tx,
    Who,
    check_if_match,
    make_page,
    make_router,
    not_modified,
    set_etag,
    settings_of,
)
from aifn_events.vocabulary import CountryCode, FactoryId, MachineId, PartitionId
from fastapi import Depends, Query, Request, Response

from aifn_registry import actions, store
from aifn_registry.domain.capacity import Capacity, age_seconds
from aifn_registry.domain.passports import FactoryKind, MachineStage, PartitionKind, PartitionStage, SoftwareStack
from aifn_registry.seed import Comparison
from aifn_registry.settings import RegistrySettings
from aifn_registry.store import PartitionFilter
from aifn_registry.views import (
    CapacityView,
    FactoryDescription,
    FactoryRegistration,
    FactoryView,
    LivePartitionView,
    MachineDescription,
    MachineRegistration,
    MachineView,
    Prose,
    SectorId,
    SectorMatrixView,
    SectorView,
)

router = make_router()
Settings = Annotated[RegistrySettings, Depends(settings_of)]
Vendor = Annotated[str | None, Query(max_length=60, description="in any case", examples=["AMD"])]
Retired = Annotated[bool, Query(description="show those taken out of the network instead")]
Reason = Annotated[Prose, Query(description="why, for those who ask later", examples=["replaced by LUMI-AI"])]
AtLeast = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


def _problems(*shown: tuple[int, str, str]) -> dict[int | str, dict[str, Any]]:
    """Documents problems of a route: status, code, an example of the sentence."""
    grouped: dict[int | str, dict[str, Any]] = {}
    for status, code, detail in shown:
        title = code.replace("_", " ").capitalize()
        body = {"type": f"urn:aifn:problem:{code}", "title": title, "status": status, "detail": detail, "code": code}
        one = grouped.setdefault(status, {"description": "", "content": {PROBLEM: {"examples": {}}}})
        one["description"] = f"{one['description']}, {code}".removeprefix(", ")
        one["content"][PROBLEM]["schema"] = {"$ref": "#/components/schemas/Problem"}
        one["content"][PROBLEM]["examples"][code] = {"value": body}
    return grouped


_INVALID = (422, "invalid", "body.partitions.0.nodes: Input should be less than or equal to 100000")
_UNKNOWN_REFERENCE = (422, "unknown_reference", "unknown factories: nowhere")
_NOT_YOURS = (403, "forbidden", "machine.write is not among your permissions here")
_NO_MACHINE = (404, "not_found", "there is no machine lumo")
_NO_FACTORY = (404, "not_found", "there is no factory or antenna lumo-aif")
_CHANGED = (412, "precondition_failed", 'this was changed meanwhile: it is "r3" now; read it again')
_NO_IF_MATCH = (428, "precondition_required", 'send If-Match with the ETag you read; it is "r3" now')
_UNMODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "the revision named in If-None-Match is current"}}


def _header(name: str, description: str, *, required: bool) -> dict[str, Any]:
    """Documents a header that the plumbing reads."""
    schema = {"type": "string", "examples": ['"r3"']}
    return {"name": name, "in": "header", "required": required, "description": description, "schema": schema}


_IF_MATCH = {"parameters": [_header("If-Match", "the ETag of what is to be changed", required=True)]}
_IF_NONE_MATCH = {"parameters": [_header("If-None-Match", "the ETag of what is known already", required=False)]}


def _must(who: Who, permission: str, factories: tuple[FactoryId, ...]) -> None:
    """Ask for a thing that several factories own: a role at one of them is enough. Raises Forbidden."""
    granting = [factory for factory in factories if who.may(permission, factory=factory)]
    who.must(permission, factory=granting[0] if granting else None)


def _owners(factory_ids: tuple[FactoryId, ...], settings: RegistrySettings) -> tuple[FactoryId, ...]:
    """Who may change a machine; one that belongs to nobody yet is looked after by whoever runs this registry."""
    return factory_ids or (settings.factory,)


# Factories and antennas


@router.get("/factories", summary="Factories and antennas of the network", tags=["factories"])
async def list_factories(
    tx: Tx,
    who: Who,
    page: Paging,
    kind: FactoryKind | None = None,
    country: CountryCode | None = None,
    sector: Annotated[SectorId | None, Query(description="only those known to serve this sector")] = None,
    retired: Retired = False,
) -> Page[FactoryView]:
    """In the order of their names. A member whose sectors are not known is never found by a sector."""
    who.must("factory.read")
    found = await store.list_factories(
        tx, kind=kind, country=country, sector=sector, retired=retired, after=page.after, limit=page.limit
    )
    return make_page([FactoryView.of(one) for one in found], page.limit, lambda view: view.factory_id)


@router.get(
    "/factories/{factory_id}",
    summary="One factory or antenna",
    tags=["factories"],
    openapi_extra=_IF_NONE_MATCH,
    responses=_UNMODIFIED | _problems(_NO_FACTORY),
)
async def get_factory(factory_id: FactoryId, tx: Tx, who: Who, request: Request, response: Response) -> FactoryView:
    """With its ETag; If-None-Match saves sending what is known."""
    who.must("factory.read", factory=factory_id)
    found = await store.get_factory(tx, factory_id)
    not_modified(request, found.revision)
    set_etag(response, found.revision)
    return FactoryView.of(found)


@router.post(
    "/factories",
    status_code=201,
    summary="Register a factory or antenna",
    tags=["factories"],
    responses=_problems(
        _NOT_YOURS, (409, "factory_exists", "lumi-aif is registered already"), _INVALID, _UNKNOWN_REFERENCE
    ),
)
async def register_factory(new: FactoryRegistration, tx: Tx, who: Who, response: Response) -> FactoryView:
    """By an administrator of that very factory: the identity provider says who that is."""
    who.must("factory.write", factory=new.factory_id)
    factory = await actions.register_factory(tx, new.of(new.factory_id))
    set_etag(response, factory.revision)
    response.headers["location"] = f"/v1/factories/{factory.factory_id}"
    return FactoryView.of(factory)


@router.put(
    "/factories/{factory_id}",
    summary="Describe a factory or antenna anew",
    tags=["factories"],
    openapi_extra=_IF_MATCH,
    responses=_problems(_NOT_YOURS, _NO_FACTORY, _CHANGED, _INVALID, _UNKNOWN_REFERENCE, _NO_IF_MATCH),
)
async def describe_factory(
    factory_id: FactoryId, new: FactoryDescription, tx: Tx, who: Who, request: Request, response: Response
) -> FactoryView:
    """Replaces the whole description; a retired member comes back by it. Needs If-Match."""
    known = await store.get_factory(tx, factory_id, lock=True)
    who.must("factory.write", factory=factory_id)
    check_if_match(request, known.revision)
    factory = await actions.describe_factory(tx, known, new.of(factory_id))
    set_etag(response, factory.revision)
    return FactoryView.of(factory)


@router.delete(
    "/factories/{factory_id}",
    summary="Retire a factory or antenna",
    tags=["factories"],
    openapi_extra=_IF_MATCH,
    responses=_problems(
        _NOT_YOURS,
        _NO_FACTORY,
        (409, "already_retired", "lumi-aif has been retired already"),
        _CHANGED,
        _INVALID,
        _NO_IF_MATCH,
    ),
)
async def retire_factory(
    factory_id: FactoryId, reason: Reason, tx: Tx, who: Who, request: Request, response: Response
) -> FactoryView:
    """It stays readable, marked as retired. Needs If-Match."""
    known = await store.get_factory(tx, factory_id, lock=True)
    who.must("factory.write", factory=factory_id)
    check_if_match(request, known.revision)
    factory = await actions.retire_factory(tx, known, reason)
    set_etag(response, factory.revision)
    return FactoryView.of(factory)


# Machines


@router.get("/machines", summary="Machines of the network", tags=["machines"])
async def list_machines(
    tx: Tx,
    who: Who,
    page: Paging,
    stage: MachineStage | None = None,
    country: CountryCode | None = None,
    factory: FactoryId | None = None,
    gpu_vendor: Vendor = None,
    retired: Retired = False,
) -> Page[MachineView]:
    """With their partitions, in the order of their names."""
    who.must("machine.read")
    found = await store.list_machines(
        tx,
        stage=stage,
        country=country,
        factory=factory,
        gpu_vendor=gpu_vendor,
        retired=retired,
        after=page.after,
        limit=page.limit,
    )
    return make_page([MachineView.of(one) for one in found], page.limit, lambda view: view.machine_id)


@router.get(
    "/machines/{machine_id}",
    summary="One machine with its partitions",
    tags=["machines"],
    openapi_extra=_IF_NONE_MATCH,
    responses=_UNMODIFIED | _problems(_NO_MACHINE),
)
async def get_machine(
    machine_id: MachineId, tx: Tx, who: Who, settings: Settings, request: Request, response: Response
) -> MachineView:
    """With its ETag; If-None-Match saves sending what is known."""
    found = await store.get_machine(tx, machine_id)
    _must(who, "machine.read", _owners(found.factory_ids, settings))
    not_modified(request, found.revision)
    set_etag(response, found.revision)
    return MachineView.of(found)


_REFUSED_MACHINE = (
    _INVALID,
    (422, "uneven_gpus", "lumi-g: 3 accounted GPUs in a node do not divide its 8 devices"),
    _UNKNOWN_REFERENCE,
)
_PARTITION_TAKEN = (409, "partition_exists", "partition lumi-g is there already")


@router.post(
    "/machines",
    status_code=201,
    summary="Register a machine",
    tags=["machines"],
    responses=_problems(
        _NOT_YOURS, (409, "machine_exists", "machine lumi is registered already"), _PARTITION_TAKEN, *_REFUSED_MACHINE
    ),
)
async def register_machine(
    new: MachineRegistration, tx: Tx, who: Who, settings: Settings, response: Response
) -> MachineView:
    """By an operator of one of its factories. How its time is counted follows from the counts of each partition."""
    described = new.of(new.machine_id)
    _must(who, "machine.write", _owners(described.factory_ids, settings))
    machine = await actions.register_machine(tx, described)
    set_etag(response, machine.revision)
    response.headers["location"] = f"/v1/machines/{machine.machine_id}"
    return MachineView.of(machine)


@router.put(
    "/machines/{machine_id}",
    summary="Describe a machine anew",
    tags=["machines"],
    openapi_extra=_IF_MATCH,
    responses=_problems(
        _NOT_YOURS,
        _NO_MACHINE,
        (409, "unit_fixed", "lumi-g has operated with 64 slices in a node and cannot be recounted as 128: ..."),
        _PARTITION_TAKEN,
        _CHANGED,
        *_REFUSED_MACHINE,
        _NO_IF_MATCH,
    ),
)
async def describe_machine(
    machine_id: MachineId,
    new: MachineDescription,
    tx: Tx,
    who: Who,
    settings: Settings,
    request: Request,
    response: Response,
) -> MachineView:
    """Replaces the whole description; a retired machine comes back by it. Needs If-Match.

    A partition that has operated keeps its slices and may not be left out: time on the books is counted in them.
    """
    known = await store.get_machine(tx, machine_id, lock=True)
    _must(who, "machine.write", _owners(known.factory_ids, settings))
    check_if_match(request, known.revision)
    described = new.of(machine_id)
    _must(who, "machine.write", _owners(described.factory_ids, settings))
    machine = await actions.describe_machine(tx, known, described)
    set_etag(response, machine.revision)
    return MachineView.of(machine)


@router.delete(
    "/machines/{machine_id}",
    summary="Retire a machine",
    tags=["machines"],
    openapi_extra=_IF_MATCH,
    responses=_problems(
        _NOT_YOURS,
        _NO_MACHINE,
        (409, "already_retired", "lumi has been retired already"),
        _CHANGED,
        _INVALID,
        _NO_IF_MATCH,
    ),
)
async def retire_machine(
    machine_id: MachineId,
    reason: Reason,
    tx: Tx,
    who: Who,
    settings: Settings,
    request: Request,
    response: Response,
) -> MachineView:
    """It stays readable, marked as retired; what it has done stays on the books. Needs If-Match."""
    known = await store.get_machine(tx, machine_id, lock=True)
    _must(who, "machine.write", _owners(known.factory_ids, settings))
    check_if_match(request, known.revision)
    machine = await actions.retire_machine(tx, known, reason)
    set_etag(response, machine.revision)
    return MachineView.of(machine)


# Partitions


@router.get("/partitions", summary="Partitions and what they could take when last seen", tags=["partitions"])
async def list_partitions(
    tx: Tx,
    who: Who,
    settings: Settings,
    page: Paging,
    machine: MachineId | None = None,
    kind: PartitionKind | None = None,
    stage: PartitionStage | None = None,
    country: CountryCode | None = None,
    gpu_vendor: Vendor = None,
    software_stack: SoftwareStack | None = None,
    min_devices: AtLeast = None,
    min_nodes: AtLeast = None,
    min_gpu_memory_gb: AtLeast = None,
) -> Page[LivePartitionView]:
    """In the order of their names, without those of retired machines. An unknown count is never enough."""
    who.must("machine.read")
    wanted = PartitionFilter(
        machine=machine,
        kind=kind,
        stage=stage,
        country=country,
        gpu_vendor=gpu_vendor,
        software_stack=software_stack,
        min_devices=min_devices,
        min_nodes=min_nodes,
        min_gpu_memory_gb=min_gpu_memory_gb,
    )
    found = await store.list_partitions(tx, wanted, after=page.after, limit=page.limit)
    seen = await store.capacities(tx, [one.partition_id for one in found])
    views = [LivePartitionView.now(one, _seen(seen.get(one.partition_id), settings)) for one in found]
    return make_page(views, page.limit, lambda view: view.partition_id)


@router.get(
    "/partitions/{partition_id}",
    summary="One partition and what it could take when last seen",
    tags=["partitions"],
    responses=_problems((404, "not_found", "there is no partition lumo-g")),
)
async def get_partition(partition_id: PartitionId, tx: Tx, who: Who, settings: Settings) -> LivePartitionView:
    """`capacity` says when it was observed, how old that is, and who said so."""
    found = await store.get_partition(tx, partition_id)
    machine = await store.get_machine(tx, found.machine_id)
    _must(who, "machine.read", _owners(machine.factory_ids, settings))
    return LivePartitionView.now(found, _seen(await store.get_capacity(tx, partition_id), settings))


def _seen(capacity: Capacity | None, settings: RegistrySettings) -> CapacityView | None:
    if capacity is None:
        return None
    age = age_seconds(capacity, clock.now())
    return CapacityView.of(capacity, age_seconds=age, fresh=age <= settings.capacity_fresh.total_seconds())


# Reference tables


@router.get("/sectors", summary="The sector matrix: who serves which strategic sector", tags=["reference"])
async def get_sectors(tx: Tx, who: Who) -> SectorMatrixView:
    """Ten strategic sectors by country as published, and the factories that serve each one."""
    who.must("factory.read")
    matrix = await store.get_reference(tx, "sectors")
    serving = await store.sectors_by_factory(tx)
    return SectorMatrixView(
        as_of=matrix["as_of"],
        rule=matrix["rule"],
        source=matrix["source"],
        countries_known=[column["country_code"] for column in matrix["columns"]],
        sectors=[
            SectorView(
                sector_id=one["sector_id"],
                name=one["name"],
                countries=[c["country_code"] for c in matrix["columns"] if one["sector_id"] in c["sectors"]],
                factory_ids=[factory for factory, sectors in serving.items() if one["sector_id"] in sectors],
            )
            for one in matrix["sectors"]
        ],
    )


@router.get("/comparison", summary="Other infrastructures, for comparison only", tags=["reference"])
async def get_comparison(tx: Tx, who: Who) -> Comparison:
    """Private clusters, public programmes and sizes, dated and with sources; no decision reads them."""
    who.must("machine.read")
    return Comparison.model_validate(await store.get_reference(tx, "comparison"))
