"""What the registry does, on a real database: the first day's data, changes, what it announces."""

import json
from decimal import Decimal
from typing import Any

import pytest
from aifn_common.database import Database, transaction
from aifn_common.service import prepare
from aifn_events.registry import FactoryDescribed, MachineDescribed
from aifn_registry import actions, first_day, seed, store
from aifn_registry.app import service
from aifn_registry.domain.capacity import MachineRetired, UnknownPartition
from aifn_registry.domain.passports import FactoryExists, MachineExists, PartitionExists, UnitFixed, UnknownReference
from aifn_registry.settings import RegistrySettings
from aifn_registry.store import PartitionFilter

from tests.registry import make


async def announced(db: Database) -> list[tuple[str, dict[str, Any]]]:
    """What waits in the outbox: topic and payload, in order."""
    rows = await db.fetch("SELECT topic, value FROM outbox ORDER BY seq")
    return [(row["topic"], json.loads(row["value"])) for row in rows]


async def everything(db: Database) -> list[Any]:
    """All rows of all tables of the registry."""
    tables = ("factory", "machine", "partition", "capacity", "outbox")
    return [await db.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in tables]


async def test_the_first_day_brings_every_record_and_announces_each_once(
    db: Database, settings: RegistrySettings
) -> None:
    await prepare(service, settings, db)
    topics = [topic for topic, _ in await announced(db)]
    loaded = seed.load()
    members = len(loaded.factories) + len(loaded.antennas)
    assert topics == [FactoryDescribed.topic] * members + [MachineDescribed.topic] * len(loaded.machines)
    assert await db.fetchval("SELECT count(*) FROM partition") == len(loaded.partitions)


async def test_what_is_read_back_is_what_the_seed_said(seeded: Database) -> None:
    async with transaction(seeded) as tx:
        for factory in first_day.factories():
            assert await store.get_factory(tx, factory.factory_id) == factory
        for machine in first_day.machines():
            known = await store.get_machine(tx, machine.machine_id)
            assert [one.figures for one in known.partitions] == [one.figures for one in machine.partitions]
            assert (known.figures, known.source, known.factory_ids) == (
                machine.figures,
                machine.source,
                machine.factory_ids,
            )
        jupiter = await store.get_machine(tx, "jupiter")
    assert jupiter.figures[0].value == Decimal(10**18)


async def test_loading_the_seed_again_changes_nothing(seeded: Database, settings: RegistrySettings) -> None:
    before = await everything(seeded)
    await prepare(service, settings, seeded)
    assert await everything(seeded) == before


async def test_the_seed_does_not_undo_what_an_operator_changed(seeded: Database, settings: RegistrySettings) -> None:
    async with transaction(seeded) as tx:
        lumi = await store.get_machine(tx, "lumi", lock=True)
        await actions.retire_machine(tx, lumi, "worn out")
        factory = await store.get_factory(tx, "lumi-aif", lock=True)
        await actions.describe_factory(tx, factory, make.factory(name="Renamed"))
    await prepare(service, settings, seeded)
    async with transaction(seeded) as tx:
        assert (await store.get_machine(tx, "lumi")).retired
        assert (await store.get_factory(tx, "lumi-aif")).name == "Renamed"


async def test_a_machine_missing_from_the_database_is_added_by_the_next_seed(
    seeded: Database, settings: RegistrySettings
) -> None:
    await seeded.execute("DELETE FROM partition WHERE machine_id = 'vega'")
    await seeded.execute("DELETE FROM machine WHERE machine_id = 'vega'")
    await prepare(service, settings, seeded)
    [(topic, said)] = await announced(seeded)
    assert (topic, said["machine_id"], len(said["partitions"])) == (MachineDescribed.topic, "vega", 3)


async def test_a_new_seed_leaves_out_a_machine_whose_partition_an_operator_has_registered_elsewhere(
    db: Database, settings: RegistrySettings
) -> None:
    mine = make.machine(make.partition("vega-gpu", machine_id="mine"), machine_id="mine", factory_ids=())
    async with transaction(db) as tx:
        await actions.register_machine(tx, mine)
    await prepare(service, settings, db)
    async with transaction(db) as tx:
        assert (await store.get_partition(tx, "vega-gpu")).machine_id == "mine"
        assert await store.known_machine_ids(tx) == {one.machine_id for one in first_day.machines()} - {"vega"} | {
            "mine"
        }


async def test_the_passport_of_lumi_is_announced_with_its_resources_and_slices(
    db: Database, settings: RegistrySettings
) -> None:
    await prepare(service, settings, db)
    lumi = next(said for _, said in await announced(db) if said.get("machine_id") == "lumi")
    counted = {one["partition_id"]: (one["resource"], one["units_per_node"]) for one in lumi["partitions"]}
    assert counted == {"lumi-g": ("lumi/lumi-g/gpu-time", 64), "lumi-c": ("lumi/lumi-c/node-time", 128)}


async def test_an_unknown_sector_list_is_announced_as_unknown(db: Database, settings: RegistrySettings) -> None:
    await prepare(service, settings, db)
    said = {said["factory_id"]: said["sectors"] for _, said in await announced(db) if "factory_id" in said}
    assert said["litai"] is None
    assert "health_life_sciences" in said["lumi-aif"]


async def test_registering_describing_and_retiring_are_announced_with_growing_revisions(db: Database) -> None:
    async with transaction(db) as tx:
        await store.add_factory(tx, make.factory())
        new = await actions.register_machine(tx, make.machine(make.partition()))
        changed = await actions.describe_machine(tx, new, make.machine(make.partition(nodes=10)))
        await actions.retire_machine(tx, changed, "worn out")
    said = [said for _, said in await announced(db)]
    assert [(one["revision"], one["retired"]) for one in said] == [(0, False), (1, False), (2, True)]
    assert said[1]["partitions"][0]["nodes"] == 10


async def test_a_machine_is_registered_once(db: Database) -> None:
    async with transaction(db) as tx:
        await store.add_factory(tx, make.factory())
        await actions.register_machine(tx, make.machine())
    before = await everything(db)
    with pytest.raises(MachineExists):
        async with transaction(db) as tx:
            await actions.register_machine(tx, make.machine(name="LUMI again"))
    assert await everything(db) == before


async def test_a_factory_is_registered_once(seeded: Database) -> None:
    before = await everything(seeded)
    with pytest.raises(FactoryExists):
        async with transaction(seeded) as tx:
            await actions.register_factory(tx, make.factory())
    assert await everything(seeded) == before


async def test_a_partition_belongs_to_one_machine(seeded: Database) -> None:
    before = await everything(seeded)
    thief = make.machine(make.partition("lumi-g", machine_id="puhti"), machine_id="puhti")
    with pytest.raises(PartitionExists):
        async with transaction(seeded) as tx:
            await actions.register_machine(tx, thief)
    assert await everything(seeded) == before


async def test_a_machine_of_an_unknown_factory_is_refused(db: Database) -> None:
    with pytest.raises(UnknownReference):
        async with transaction(db) as tx:
            await actions.register_machine(tx, make.machine())
    assert await db.fetchval("SELECT count(*) FROM machine") == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"linked_factory_ids": ("nowhere",)},
        {"primary_machine_id": "nothing"},
        {"interim_machine_ids": ("nothing",)},
        {"sectors": ("astrology",)},
        {"linked_factory_ids": ("new-aif",)},
    ],
)
async def test_a_factory_that_names_what_is_not_known_is_refused(seeded: Database, wrong: dict[str, Any]) -> None:
    with pytest.raises(UnknownReference):
        async with transaction(seeded) as tx:
            await actions.register_factory(tx, make.factory("new-aif", **wrong))
    assert await seeded.fetchval("SELECT count(*) FROM factory WHERE factory_id = 'new-aif'") == 0


async def test_a_planned_partition_may_be_left_out_and_one_that_has_operated_may_not(seeded: Database) -> None:
    async with transaction(seeded) as tx:
        jupiter = await store.get_machine(tx, "jupiter", lock=True)
        booster = next(one for one in jupiter.partitions if one.partition_id == "jupiter-booster")
        only_booster = make.machine(booster, machine_id="jupiter", factory_ids=("jaif",))
        without = await actions.describe_machine(tx, jupiter, only_booster)
        assert await store.get_machine(tx, "jupiter") == without
        with pytest.raises(UnitFixed):
            await actions.describe_machine(tx, without, make.machine(machine_id="jupiter", factory_ids=("jaif",)))


async def test_partitions_are_found_by_what_they_have_and_unknown_counts_are_never_enough(seeded: Database) -> None:
    async def found(**wanted: Any) -> set[str]:
        async with transaction(seeded) as tx:
            return {one.partition_id for one in await store.list_partitions(tx, PartitionFilter(**wanted), limit=100)}

    assert await found(gpu_vendor="amd", min_devices=20_000) == {"lumi-g"}
    assert await found(machine="karolina", min_nodes=1) == {"karolina-gpu", "karolina-fat", "karolina-viz"}
    assert await found(country="SI", kind="gpu") == {"vega-gpu"}
    assert "lumi-g" in await found(software_stack="rocm", min_gpu_memory_gb=128, stage="operating")


async def test_reports_on_what_is_not_there_are_refused(seeded: Database, settings: RegistrySettings) -> None:
    wrongs: list[dict[str, Any]] = [{"machine_id": "lumo"}, {"partition_id": "lumi-x"}, {"partition_id": "vega-gpu"}]
    for wrong in wrongs:
        with pytest.raises(UnknownPartition):
            async with transaction(seeded) as tx:
                await actions.remember_capacity(tx, make.report(**wrong), may_be_ahead=settings.capacity_ahead)
    assert await seeded.fetchval("SELECT count(*) FROM capacity") == 0


async def test_a_report_on_a_retired_machine_is_refused(seeded: Database, settings: RegistrySettings) -> None:
    async with transaction(seeded) as tx:
        await actions.retire_machine(tx, await store.get_machine(tx, "lumi", lock=True), "worn out")
    with pytest.raises(MachineRetired):
        async with transaction(seeded) as tx:
            await actions.remember_capacity(tx, make.report(), may_be_ahead=settings.capacity_ahead)


async def test_that_nothing_of_a_retired_machine_is_in_service_is_heard_and_left_alone(
    seeded: Database, settings: RegistrySettings
) -> None:
    async with transaction(seeded) as tx:
        await actions.retire_machine(tx, await store.get_machine(tx, "lumi", lock=True), "worn out")
    before = await everything(seeded)
    empty = make.report(nodes_in_service=0, nodes_idle=0, slices_idle=0)
    async with transaction(seeded) as tx:
        await actions.remember_capacity(tx, empty, may_be_ahead=settings.capacity_ahead)
    assert await everything(seeded) == before
    assert await seeded.fetchval("SELECT count(*) FROM capacity") == 0
