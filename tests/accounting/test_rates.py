"""Rate cards: the public figures of machines to the last unit, and what is refused of cards and records."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from aifn_accounting import rate_data
from aifn_accounting.domain.periods import apportion
from aifn_accounting.domain.rates import (
    AbsurdQuantity,
    NegativeElapsed,
    RateCard,
    Rule,
    Share,
    WrongRule,
    check_occupied,
    occupied_json,
    read_rule,
)
from aifn_registry import first_day
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
HOUR = 3600
GIB = 1024
SEED = {one.resource: one for one in rate_data.cards()}
PASSPORTS = {part.resource: part for machine in first_day.machines() for part in machine.partitions}


@dataclass(frozen=True)
class Run:
    """What a record says of a run."""

    seconds: int = HOUR
    nodes: int = 1
    cores: int | None = None
    devices: int | None = None
    memory_mib: int | None = None
    exclusive: bool | None = None
    suspended_seconds: int = 0
    idle_reservation: bool = False
    gpu_model: str | None = None
    energy_joules: int | None = None

    started_at = NOW

    @property
    def ended_at(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)


def card_of(resource: str) -> RateCard:
    one = SEED[resource]
    return RateCard(one.id, resource, one.numerator, one.denominator, one.valid_from, None, read_rule(one.rule))


G, C = "lumi/lumi-g/gpu-time", "lumi/lumi-c/node-time"
DAY = 24 * HOUR
# (what, resource, run, what the operator's page bills, slice-seconds in one of the page's units)
CORE_HOUR, GPU_HOUR, NODE_HOUR = 1 * HOUR, 16 * HOUR, 64 * HOUR
PUBLIC = [
    ("LUMI-C: 16 whole nodes for 12 hours", C, Run(12 * HOUR, 16, cores=16, exclusive=True), 24_576, CORE_HOUR),
    ("LUMI-C: 4 cores and 4 GB for a day", C, Run(DAY, cores=4, memory_mib=4 * GIB), 96, CORE_HOUR),
    ("LUMI-C: 4 cores and 8 GB for a day", C, Run(DAY, cores=4, memory_mib=8 * GIB), 96, CORE_HOUR),
    ("LUMI-C: 4 cores and 32 GB for a day", C, Run(DAY, cores=4, memory_mib=32 * GIB), 384, CORE_HOUR),
    ("LUMI-C: 32 cores for 2 hours", C, Run(2 * HOUR, cores=32), 64, CORE_HOUR),
    ("LUMI-G: 4 whole nodes for a day", G, Run(DAY, 4, devices=4, exclusive=True), 384, GPU_HOUR),
    ("LUMI-G: 2 dies for a day", G, Run(DAY, devices=2), 24, GPU_HOUR),
    ("LUMI-G: 1 die and 128 GB for a day", G, Run(DAY, devices=1, memory_mib=128 * GIB), 24, GPU_HOUR),
    ("LUMI-G: 1 die and 9 cores are two slices of 8", G, Run(HOUR, devices=1, cores=9), 1, GPU_HOUR),
    ("LUMI-G: one die-hour is an eighth of a node-hour", G, Run(8 * HOUR, devices=1), 1, NODE_HOUR),
    ("LUMI-G award: 4,500 node-hours", G, Run(4500 * HOUR, exclusive=True), 18_000, GPU_HOUR),
    ("Karolina CPU: nodes times hours", "karolina/karolina-cpu/node-time", Run(3 * HOUR, 5), 15, HOUR),
    ("Karolina GPU: GPUs by 8", "karolina/karolina-gpu/gpu-time", Run(2 * HOUR, devices=4), 1, 8 * HOUR),
    ("Karolina FAT: CPUs by 768", "karolina/karolina-fat/node-time", Run(2 * HOUR, cores=384), 1, 768 * HOUR),
    ("Karolina VIZ: CPUs by 64", "karolina/karolina-viz/node-time", Run(4 * HOUR, cores=16), 1, 64 * HOUR),
    (
        "Karolina: a reserved node that nobody used",
        "karolina/karolina-cpu/node-time",
        Run(10 * HOUR, 2, idle_reservation=True),
        20,
        HOUR,
    ),
    (
        "LUMI: a reserved node that nobody used is not in its rule",
        G,
        Run(10 * HOUR, 2, devices=16, exclusive=True, idle_reservation=True),
        0,
        GPU_HOUR,
    ),
    (
        "MeluXina: whole nodes by the minute",
        "meluxina/meluxina-gpu/gpu-time",
        Run(90 * 60, 2, devices=2, exclusive=True),
        180,
        64 * 60,
    ),
    ("Lucia: cores are most", "lucia/lucia-gpu/gpu-time", Run(HOUR, cores=16, devices=1, memory_mib=8 * GIB), 16, HOUR),
    ("Lucia: memory is most", "lucia/lucia-gpu/gpu-time", Run(HOUR, cores=1, devices=1, memory_mib=96 * GIB), 12, HOUR),
    ("Lucia: GPUs are most", "lucia/lucia-gpu/gpu-time", Run(HOUR, cores=4, devices=2, memory_mib=8 * GIB), 16, HOUR),
]


@pytest.mark.parametrize(("what", "resource", "run", "billed", "unit"), PUBLIC, ids=[one[0] for one in PUBLIC])
def test_public_figures_come_out_exactly(what: str, resource: str, run: Run, billed: int, unit: int) -> None:
    assert Fraction(card_of(resource).rate(1, run), unit) == billed, what


def test_the_old_fixed_amounts_convert_by_the_factors_of_the_passports() -> None:
    # ORCG, Compute for Good: node-hours (GPU-hours) of the fixed amounts of 2024.
    fixed = {
        "vega/vega-gpu/gpu-time": (7_000, 28_000),
        "karolina/karolina-gpu/gpu-time": (7_500, 60_000),
        "meluxina/meluxina-gpu/gpu-time": (25_000, 100_000),
        "marenostrum5/mn5-acc/gpu-time": (32_000, 128_000),
        "lumi/lumi-g/gpu-time": (35_000, 140_000),
        "leonardo/leonardo-booster/gpu-time": (50_000, 200_000),
    }
    for resource, (node_hours, gpu_hours) in fixed.items():
        part = PASSPORTS[resource]
        assert part.slices_per_gpu is not None
        assert node_hours * part.units_per_node == gpu_hours * part.slices_per_gpu, resource


def test_a_rule_counts_a_node_as_its_passport_does() -> None:
    compared = 0
    for resource, one in SEED.items():
        rule = read_rule(one.rule)
        if rule is not None and resource in PASSPORTS:
            assert rule.slices_per_node == PASSPORTS[resource].units_per_node, resource
            compared += 1
    assert compared == 10


def test_a_full_node_costs_the_same_by_shares_as_as_a_whole() -> None:
    for resource, whole in ((G, Run(devices=8, cores=64, memory_mib=512 * GIB)), (C, Run(cores=128))):
        assert card_of(resource).rate(1, whole) == card_of(resource).rate(1, replace(whole, exclusive=True))


def test_what_is_not_known_for_sure_says_so_and_everything_has_a_source() -> None:
    unsure = {one.id for one in SEED.values() if one.not_confirmed}
    assert {"lucia-gpu", "meluxina-gpu", "meluxina-cpu"} <= unsure
    assert not any(one.startswith("karolina") for one in unsure)
    assert all(one.source for one in SEED.values())


def test_meluxina_gives_an_award_out_by_the_days_of_each_month() -> None:
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    slices = apportion(365 * HOUR, start, end, "month")
    assert [one.amount // HOUR for one in slices] == [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    assert sum(one.amount for one in apportion(1_000_003, start, end, "month")) == 1_000_003


def test_a_record_that_says_too_little_is_charged_as_reported() -> None:
    assert card_of(G).rate(777, Run()) == 777
    assert card_of(G).rate(777) == 777
    assert card_of("meluxina/meluxina-gpu/gpu-time").rate(777, Run()) == 777


def test_a_rule_that_comes_to_more_than_any_machine_gives_is_not_believed() -> None:
    silly = RateCard("c", "*", 1, 1, NOW, None, Rule(2**31 - 1, "always"))
    assert silly.rate(777, Run(10**6, 1000)) == 777
    assert silly.rate(777, Run(1, 1)) == 2**31 - 1


def test_time_that_was_suspended_costs_nothing() -> None:
    # One of the real rows: 17 s of wall clock, of which 8 s were suspended, on 2 cores.
    assert card_of(C).rate(1, Run(17, cores=2, suspended_seconds=8)) == 18


def test_a_begun_step_of_time_counts_as_a_whole_one() -> None:
    minutes = Rule(10, "always", step_seconds=60)
    assert minutes.slice_seconds(Run(61, 2)) == (2 * 10 * 120, 1)
    assert minutes.slice_seconds(Run(60, 2)) == (2 * 10 * 60, 1)
    assert minutes.slice_seconds(Run(0, 2)) == (0, 1)


@given(st.integers(0, 10**6), st.integers(1, 64), st.integers(0, 10**6), st.integers(0, 10**7), st.integers(0, 10**6))
def test_the_largest_share_is_charged_and_a_part_of_a_unit_rounds_up(
    seconds: int, nodes: int, cores: int, memory: int, devices: int
) -> None:
    rule = Rule(32, "never", (Share("cores", 3, 2), Share("memory_mib", 8192, 1), Share("devices", 1, 8, whole=True)))
    run = Run(seconds, nodes, cores=cores, memory_mib=memory, devices=devices)
    exact = max(Fraction(2 * cores, 3), Fraction(memory, 8192), Fraction(8 * devices)) * seconds
    charged = RateCard("c", "*", 3, 7, NOW, None, rule).rate(1, run)
    assert exact * Fraction(3, 7) <= charged < exact * Fraction(3, 7) + 1


@given(st.integers(1, 10**5), st.integers(0, 10**4), st.integers(0, 10**6), st.integers(0, 8))
def test_who_takes_more_never_pays_less(seconds: int, cores: int, memory: int, more: int) -> None:
    card = card_of(C)
    base = Run(seconds, cores=cores, memory_mib=memory)
    for bigger in (
        replace(base, seconds=seconds + more),
        replace(base, cores=cores + more),
        replace(base, memory_mib=memory + more),
    ):
        assert card.rate(1, bigger) >= card.rate(1, base)


def test_quantities_that_no_node_can_have_are_refused() -> None:
    with pytest.raises(AbsurdQuantity, match="5000 cores"):
        check_occupied(Run(nodes=1, cores=5000))
    with pytest.raises(AbsurdQuantity, match="devices"):
        check_occupied(Run(nodes=2, devices=300))
    with pytest.raises(NegativeElapsed) as refused:
        check_occupied(Run(10, suspended_seconds=11))
    assert refused.value.details == {"suspended_seconds": 11, "elapsed_seconds": 10}
    check_occupied(Run(10, nodes=2, cores=256, devices=16, memory_mib=1024 * GIB, suspended_seconds=10))


def test_what_is_unknown_is_never_written_as_zero() -> None:
    assert occupied_json(Run()) is None
    assert occupied_json(Run(energy_joules=0, gpu_model="H200")) == '{"energy_joules": 0, "gpu_model": "H200"}'
    assert occupied_json(Run(suspended_seconds=8, idle_reservation=True)) == (
        '{"idle_reservation": true, "suspended_seconds": 8}'
    )


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"slices_per_node": 0, "whole_nodes": "always"},
        {"slices_per_node": 64.0, "whole_nodes": "always"},
        {"slices_per_node": True, "whole_nodes": "always"},
        {"slices_per_node": 64},
        {"slices_per_node": 64, "whole_nodes": "sometimes"},
        {"slices_per_node": 64, "shares": [{"of": "cores", "per": 0, "slices": 1}]},
        {"slices_per_node": 64, "shares": [{"of": "wheels", "per": 1, "slices": 1}]},
        {"slices_per_node": 64, "shares": [{"of": "cores"}]},
        {"slices_per_node": 64, "shares": "cores"},
        {"slices_per_node": 64, "whole_nodes": "always", "idle_reservations": "no"},
        {"slices_per_node": 64, "whole_nodes": "always", "euro": 3},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(words: dict[str, Any]) -> None:
    with pytest.raises(WrongRule):
        read_rule(words)
