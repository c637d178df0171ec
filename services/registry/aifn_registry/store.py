"""All SQL of the registry: factories, machines with their partitions, the latest capacity of each, reference tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from typing import Any

from aifn_common.database import Row, Transaction
from aifn_common.errors import NotFound
from aifn_events.vocabulary import CountryCode, FactoryId, MachineId, PartitionId

from aifn_registry.domain.capacity import Capacity, Reported
from aifn_registry.domain.passports import (
    Factory,
    FactoryExists,
    Figure,
    Machine,
    MachineExists,
    Partition,
    PartitionExists,
)

_FACTORY_COLUMNS = tuple(field.name for field in fields(Factory))
_MACHINE_COLUMNS = tuple(field.name for field in fields(Machine) if field.name != "partitions")
_PARTITION_COLUMNS = tuple(field.name for field in fields(Partition))
_DERIVED = ("position", "resource", "units_per_node")
_CAPACITY_COLUMNS = tuple(field.name for field in fields(Capacity))


def _insert(table: str, columns: Sequence[str]) -> str:
    places = ", ".join(f"${number}" for number, _ in enumerate(columns, start=1))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"


def _set_all(columns: Sequence[str], *, but: str) -> str:
    return ", ".join(f"{name} = EXCLUDED.{name}" for name in columns if name != but)


_FACTORY = f"SELECT {', '.join(_FACTORY_COLUMNS)} FROM factory"
_ADD_FACTORY = _insert("factory", _FACTORY_COLUMNS)
_FACTORIES = f"""{_FACTORY}
WHERE factory_id > $1 AND ($2::text IS NULL OR kind = $2) AND ($3::text IS NULL OR country = $3)
    AND ($4::text IS NULL OR $4 = ANY (sectors)) AND retired = $5
ORDER BY factory_id LIMIT $6"""
_SERVING = "SELECT factory_id, sectors FROM factory WHERE sectors IS NOT NULL AND NOT retired ORDER BY factory_id"

_MACHINE = f"SELECT {', '.join(_MACHINE_COLUMNS)} FROM machine"
_ADD_MACHINE = _insert("machine", _MACHINE_COLUMNS)
_MACHINES = f"""{_MACHINE}
WHERE machine_id > $1 AND ($2::text IS NULL OR stage = $2) AND ($3::text IS NULL OR country = $3)
    AND ($4::text IS NULL OR $4 = ANY (factory_ids)) AND retired = $5
    AND ($6::text IS NULL OR EXISTS (
        SELECT FROM partition p WHERE p.machine_id = machine.machine_id AND lower(p.gpu_vendor) = lower($6)))
ORDER BY machine_id LIMIT $7"""

_PARTITION = f"SELECT {', '.join(_PARTITION_COLUMNS)} FROM partition"
_PARTITIONS_OF = f"{_PARTITION} WHERE machine_id = ANY ($1::text[]) ORDER BY machine_id, position"
_ADD_PARTITION = _insert("partition", (*_PARTITION_COLUMNS, *_DERIVED))
_PUT_PARTITION = f"""{_ADD_PARTITION}
ON CONFLICT (partition_id) DO UPDATE SET {_set_all((*_PARTITION_COLUMNS, *_DERIVED), but="partition_id")}
WHERE partition.machine_id = EXCLUDED.machine_id"""
_DROP_PARTITIONS = "DELETE FROM partition WHERE machine_id = $1 AND partition_id <> ALL ($2::text[])"
_PARTITIONS = f"""
SELECT {", ".join(f"p.{name}" for name in _PARTITION_COLUMNS)}
FROM partition p JOIN machine m USING (machine_id)
WHERE p.partition_id > $1 AND NOT m.retired AND ($2::text IS NULL OR p.machine_id = $2)
    AND ($3::text IS NULL OR p.kind = $3) AND ($4::text IS NULL OR p.stage = $4)
    AND ($5::text IS NULL OR m.country = $5) AND ($6::text IS NULL OR lower(p.gpu_vendor) = lower($6))
    AND ($7::text IS NULL OR p.software_stack = $7)
    AND ($8::bigint IS NULL OR p.nodes::bigint * p.devices_per_node >= $8)
    AND ($9::int IS NULL OR p.nodes >= $9) AND ($10::int IS NULL OR p.gpu_memory_gb >= $10)
ORDER BY p.partition_id LIMIT $11"""

_REPORTED = """
SELECT p.partition_id, p.nodes, p.units_per_node, m.retired, c.observed_at
FROM machine m JOIN partition p USING (machine_id) LEFT JOIN capacity c USING (partition_id)
WHERE m.machine_id = $1 AND p.partition_id = $2"""
_CAPACITY = f"SELECT {', '.join(_CAPACITY_COLUMNS)} FROM capacity WHERE partition_id = ANY ($1::text[])"
_PUT_CAPACITY = f"""{_insert("capacity", _CAPACITY_COLUMNS)}
ON CONFLICT (partition_id) DO UPDATE SET {_set_all(_CAPACITY_COLUMNS, but="partition_id")}
WHERE capacity.observed_at <= EXCLUDED.observed_at"""

_REFERENCE = "SELECT content FROM reference WHERE name = $1"
_PUT_REFERENCE = """INSERT INTO reference (name, content) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET content = EXCLUDED.content"""


@dataclass(frozen=True)
class PartitionFilter:
    """Which partitions are looked for; None does not matter. `min_devices` counts the whole partition."""

    machine: MachineId | None = None
    kind: str | None = None
    stage: str | None = None
    country: CountryCode | None = None
    gpu_vendor: str | None = None
    software_stack: str | None = None
    min_devices: int | None = None
    min_nodes: int | None = None
    min_gpu_memory_gb: int | None = None


# Factories


async def get_factory(tx: Transaction, factory_id: FactoryId, *, lock: bool = False) -> Factory:
    """Read a factory or antenna; `lock` holds the row until the end. Raises NotFound."""
    row = await tx.fetchrow(f"{_FACTORY} WHERE factory_id = $1" + (" FOR UPDATE" if lock else ""), factory_id)
    if row is None:
        raise NotFound(f"there is no factory or antenna {factory_id}")
    return _factory(row)


async def list_factories(
    tx: Transaction,
    *,
    kind: str | None = None,
    country: CountryCode | None = None,
    sector: str | None = None,
    retired: bool = False,
    after: str | None = None,
    limit: int,
) -> list[Factory]:
    """Factories and antennas in the order of their names; one more than `limit`, if there are more."""
    rows = await tx.fetch(_FACTORIES, after or "", kind, country, sector, retired, limit + 1)
    return [_factory(row) for row in rows]


async def add_factory(tx: Transaction, factory: Factory) -> None:
    """Add a factory or antenna. Raises FactoryExists."""
    if await tx.execute(f"{_ADD_FACTORY} ON CONFLICT DO NOTHING", *_row(factory, _FACTORY_COLUMNS)) == "INSERT 0 0":
        raise FactoryExists(factory.factory_id)


async def put_factory(tx: Transaction, factory: Factory) -> None:
    """Write a factory that is there in its new state."""
    new = f"{_ADD_FACTORY} ON CONFLICT (factory_id) DO UPDATE SET {_set_all(_FACTORY_COLUMNS, but='factory_id')}"
    await tx.execute(new, *_row(factory, _FACTORY_COLUMNS))


async def known_factory_ids(tx: Transaction) -> set[FactoryId]:
    """Every factory and antenna, the retired ones too."""
    return {row["factory_id"] for row in await tx.fetch("SELECT factory_id FROM factory")}


async def sectors_by_factory(tx: Transaction) -> dict[FactoryId, list[str]]:
    """The sectors each factory is known to serve, without retired ones."""
    return {row["factory_id"]: row["sectors"] for row in await tx.fetch(_SERVING)}


# Machines and partitions


async def get_machine(tx: Transaction, machine_id: MachineId, *, lock: bool = False) -> Machine:
    """Read a machine with its partitions; `lock` holds its row until the end. Raises NotFound."""
    row = await tx.fetchrow(f"{_MACHINE} WHERE machine_id = $1" + (" FOR UPDATE" if lock else ""), machine_id)
    if row is None:
        raise NotFound(f"there is no machine {machine_id}")
    return (await _with_partitions(tx, [row]))[0]


async def list_machines(
    tx: Transaction,
    *,
    stage: str | None = None,
    country: CountryCode | None = None,
    factory: FactoryId | None = None,
    gpu_vendor: str | None = None,
    retired: bool = False,
    after: str | None = None,
    limit: int,
) -> list[Machine]:
    """Machines with their partitions in the order of their names; one more than `limit`, if there are more."""
    rows = await tx.fetch(_MACHINES, after or "", stage, country, factory, retired, gpu_vendor, limit + 1)
    return await _with_partitions(tx, rows)


async def add_machine(tx: Transaction, machine: Machine) -> None:
    """Add a machine with its partitions. Raises MachineExists, PartitionExists."""
    if await tx.execute(f"{_ADD_MACHINE} ON CONFLICT DO NOTHING", *_row(machine, _MACHINE_COLUMNS)) == "INSERT 0 0":
        raise MachineExists(machine.machine_id)
    await _put_partitions(tx, machine)


async def put_machine(tx: Transaction, machine: Machine) -> None:
    """Write a machine that is there in its new state; partitions left out go. Raises PartitionExists."""
    new = f"{_ADD_MACHINE} ON CONFLICT (machine_id) DO UPDATE SET {_set_all(_MACHINE_COLUMNS, but='machine_id')}"
    await tx.execute(new, *_row(machine, _MACHINE_COLUMNS))
    await tx.execute(_DROP_PARTITIONS, machine.machine_id, [one.partition_id for one in machine.partitions])
    await _put_partitions(tx, machine)


async def known_machine_ids(tx: Transaction) -> set[MachineId]:
    """Every machine, the retired ones too."""
    return {row["machine_id"] for row in await tx.fetch("SELECT machine_id FROM machine")}


async def known_partition_ids(tx: Transaction) -> set[PartitionId]:
    """Every partition, those of retired machines too."""
    return {row["partition_id"] for row in await tx.fetch("SELECT partition_id FROM partition")}


async def get_partition(tx: Transaction, partition_id: PartitionId) -> Partition:
    """Read a partition. Raises NotFound."""
    row = await tx.fetchrow(f"{_PARTITION} WHERE partition_id = $1", partition_id)
    if row is None:
        raise NotFound(f"there is no partition {partition_id}")
    return _partition(row)


async def list_partitions(
    tx: Transaction, wanted: PartitionFilter, *, after: str | None = None, limit: int
) -> list[Partition]:
    """Partitions of machines that are not retired, by name; one more than `limit`, if there are more."""
    rows = await tx.fetch(_PARTITIONS, after or "", *asdict(wanted).values(), limit + 1)
    return [_partition(row) for row in rows]


async def _with_partitions(tx: Transaction, rows: Sequence[Row]) -> list[Machine]:
    found: dict[MachineId, list[Partition]] = {row["machine_id"]: [] for row in rows}
    for row in await tx.fetch(_PARTITIONS_OF, list(found)):
        found[row["machine_id"]].append(_partition(row))
    return [replace(_machine(row), partitions=tuple(found[row["machine_id"]])) for row in rows]


async def _put_partitions(tx: Transaction, machine: Machine) -> None:
    # In the order of their names: two machines that claim the same ones at the same time do not block each other.
    for position, one in sorted(enumerate(machine.partitions), key=lambda placed: placed[1].partition_id):
        values = _row(one, _PARTITION_COLUMNS)
        if await tx.execute(_PUT_PARTITION, *values, position, one.resource, one.units_per_node) == "INSERT 0 0":
            raise PartitionExists(one.partition_id)


# Capacity


async def get_capacity(tx: Transaction, partition_id: PartitionId) -> Capacity | None:
    """The latest observation of a partition; None if there was none."""
    return (await capacities(tx, [partition_id])).get(partition_id)


async def capacities(tx: Transaction, partition_ids: Iterable[PartitionId]) -> Mapping[PartitionId, Capacity]:
    """The latest observations of some partitions; one never observed is left out."""
    rows = await tx.fetch(_CAPACITY, list(partition_ids))
    return {row["partition_id"]: Capacity(**row) for row in rows}


async def get_reported(tx: Transaction, machine_id: MachineId, partition_id: PartitionId) -> Reported | None:
    """What a capacity report is judged by; None if the machine has no such partition."""
    row = await tx.fetchrow(_REPORTED, machine_id, partition_id)
    return None if row is None else Reported(*row)


async def put_capacity(tx: Transaction, capacity: Capacity) -> bool:
    """Keep an observation instead of the one before, unless that is newer; returns whether it was kept."""
    return await tx.execute(_PUT_CAPACITY, *_row(capacity, _CAPACITY_COLUMNS)) == "INSERT 0 1"


# Reference tables


async def get_reference(tx: Transaction, name: str) -> dict[str, Any]:
    """Read a reference table. Raises NotFound."""
    content: dict[str, Any] | None = await tx.fetchval(_REFERENCE, name)
    if content is None:
        raise NotFound(f"there is no reference table {name}")
    return content


async def put_reference(tx: Transaction, name: str, content: dict[str, Any]) -> None:
    """Keep a reference table, whatever it was before."""
    await tx.execute(_PUT_REFERENCE, name, content)


# Rows and values


def _row(value: Factory | Machine | Partition | Capacity, columns: Sequence[str]) -> list[object]:
    return [_written(name, getattr(value, name)) for name in columns]


def _written(name: str, value: Any) -> object:
    if name == "figures":
        return [asdict(figure) | {"value": str(figure.value)} for figure in value]
    return list(value) if isinstance(value, tuple) else value


def _values(row: Row, columns: Sequence[str]) -> dict[str, Any]:
    return {name: tuple(row[name]) if isinstance(row[name], list) else row[name] for name in columns}


def _factory(row: Row) -> Factory:
    return Factory(**_values(row, _FACTORY_COLUMNS))


def _machine(row: Row) -> Machine:
    return Machine(**_values(row, _MACHINE_COLUMNS) | {"figures": _figures(row)})


def _partition(row: Row) -> Partition:
    return Partition(**_values(row, _PARTITION_COLUMNS) | {"figures": _figures(row)})


def _figures(row: Row) -> tuple[Figure, ...]:
    return tuple(
        Figure(**figure | {"value": Decimal(figure["value"]), "source": tuple(figure["source"])})
        for figure in row["figures"]
    )
