"""The registry's own data: counts, references, dates and the known traps."""

from __future__ import annotations

from decimal import Decimal

import pytest
from aifn_registry.seed import Figure, Partition, Seed, load
from pydantic import ValidationError


def _partition(partition_id: str) -> Partition:
    return next(partition for partition in load().partitions if partition.partition_id == partition_id)


def _figures(seed: Seed) -> list[tuple[str, Figure]]:
    of_machines = [(machine.machine_id, figure) for machine in seed.machines for figure in machine.figures]
    of_partitions = [(partition.partition_id, figure) for partition in seed.partitions for figure in partition.figures]
    return of_machines + of_partitions


def test_all_machines_partitions_factories_and_antennas_are_there() -> None:
    seed = load()
    assert len(seed.machines) == 30
    assert len(seed.partitions) == 33
    assert len(seed.factories) == seed.counts.factories_total == 19
    assert len(seed.antennas) == seed.counts.antennas_total == 13
    assert len({factory.country_code for factory in seed.factories}) == seed.counts.host_member_states
    assert sum(factory.in_first_thirteen for factory in seed.factories) == seed.counts.factories_first_thirteen


def test_the_consortia_of_the_first_thirteen_reach_the_published_number_of_states() -> None:
    seed = load()
    members = {country.country_code for country in seed.countries if country.eu_member_state}
    assert len(members) == 27
    reached = {code for f in seed.factories if f.in_first_thirteen for code in f.consortium_country_codes}
    assert len(reached & members) == seed.counts.first_thirteen_member_states
    assert len(reached - members) == seed.counts.first_thirteen_other_participating_states


def test_every_machine_names_factories_that_exist() -> None:
    seed = load()
    factories = {factory.factory_id for factory in seed.factories}
    assert all(set(machine.factory_ids) <= factories for machine in seed.machines)
    assert any(machine.factory_ids for machine in seed.machines)


def test_a_factory_and_the_machine_it_uses_name_each_other() -> None:
    machines = {machine.machine_id: machine for machine in load().machines}
    for factory in load().factories:
        assert factory.factory_id in machines[factory.primary_machine_id].factory_ids


def test_every_figure_has_a_month_and_a_source() -> None:
    figures = _figures(load())
    assert len(figures) == 63
    assert all(figure.as_of and figure.as_of_basis and figure.source for _, figure in figures)


def test_figures_are_exact_numbers_above_zero() -> None:
    for _, figure in _figures(load()):
        assert isinstance(figure.value, int | Decimal)
        assert figure.value > 0
        if figure.name.endswith("_rank"):
            assert isinstance(figure.value, int)


def test_a_figure_is_given_once_for_each_month() -> None:
    named = [(owner, figure.name, figure.as_of) for owner, figure in _figures(load())]
    assert len(named) == len(set(named))


def test_ranks_of_a_partition_stand_with_the_partition() -> None:
    ranks = {(f.name, f.as_of): f.value for f in _partition("mn5-acc").figures if f.name.endswith("rank")}
    assert ranks == {("top500_rank", "2024-11"): 11, ("green500_rank", "2024-11"): 30, ("top500_rank", "2025-11"): 14}
    lumi = next(f for f in _partition("lumi-g").figures if f.name == "top500_rank")
    assert (lumi.value, lumi.as_of) == (8, "2024-11")


def test_lumi_g_shows_eight_devices_and_accounts_four_gpus() -> None:
    lumi_g = _partition("lumi-g")
    assert (lumi_g.devices_per_node, lumi_g.gpus_per_node, lumi_g.gpu_hours_per_node_hour) == (8, 4, 4)
    assert (lumi_g.gpu_vendor, lumi_g.gpu_software_stack, lumi_g.nodes) == ("AMD", "rocm", 2978)


def test_only_lumi_g_shows_other_devices_than_it_accounts() -> None:
    differing = [p.partition_id for p in load().partitions if p.devices_per_node != p.gpus_per_node]
    assert differing == ["lumi-g"]


def test_partitions_without_gpus_have_no_devices() -> None:
    without = [p for p in load().partitions if not p.kind.startswith("gpu")]
    assert {"lumi-c", "leonardo-dcgp", "vega-cpu-standard"} <= {p.partition_id for p in without}
    assert all(p.devices_per_node is None and p.gpu_hours_per_node_hour is None for p in without)


def test_the_column_el_of_the_sector_matrix_is_greece() -> None:
    seed = load()
    pharos = next(factory for factory in seed.factories if factory.factory_id == "pharos")
    assert pharos.country_code == "GR"
    assert seed.sectors.of_country("GR") == seed.sectors.of_country("EL") == pharos.strategic_sectors


def test_the_matrix_agrees_with_the_sectors_of_each_factory() -> None:
    seed = load()
    assert (len(seed.sectors.sectors), len(seed.sectors.columns)) == (10, 12)
    for factory in seed.factories:
        if factory.strategic_sectors is not None:
            assert set(factory.strategic_sectors) == set(seed.sectors.of_country(factory.country_code) or ())


def test_a_factory_without_a_column_is_unknown_and_not_empty() -> None:
    later = [factory for factory in load().factories if not factory.in_first_thirteen]
    assert len(later) == 6
    assert all(factory.strategic_sectors is None for factory in later)
    assert load().sectors.of_country("LT") is None


def test_a_seed_that_names_an_unknown_factory_is_refused() -> None:
    seed = load()
    lost = seed.machines[0].model_copy(update={"factory_ids": ("nowhere",)})
    with pytest.raises(ValidationError, match="jupiter names unknown nowhere"):
        Seed.model_validate({**dict(seed), "machines": (lost, *seed.machines[1:])})


def test_a_seed_with_the_same_machine_twice_is_refused() -> None:
    seed = load()
    lumi = next(machine for machine in seed.machines if machine.machine_id == "lumi")
    with pytest.raises(ValidationError, match="machine lumi is there 2 times"):
        Seed.model_validate({**dict(seed), "machines": (*seed.machines, lumi)})


def test_a_partition_whose_gpus_do_not_add_up_is_refused() -> None:
    wrong = {**_partition("lumi-g").model_dump(), "gpus_total": 23824}
    with pytest.raises(ValidationError, match="2978 x 4 is not 23824"):
        Partition.model_validate(wrong)
