"""How compute time is counted, which descriptions contradict themselves, which reports make sense."""

from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from math import gcd

import pytest
from aifn_common.errors import Invalid
from aifn_events.vocabulary import MAX_AMOUNT
from aifn_registry import first_day
from aifn_registry.domain import passports
from aifn_registry.domain.capacity import AbsurdCapacity, ObservedInFuture, StaleCapacity, accept_capacity, age_seconds
from aifn_registry.domain.passports import (
    MAX_CORES_PER_NODE,
    MAX_DEVICES_PER_NODE,
    MAX_NODES,
    AlreadyRetired,
    PartitionExists,
    UnevenGpus,
    UnitFixed,
    UnknownReference,
    UnknownUnit,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.registry import make

devices = st.integers(1, MAX_DEVICES_PER_NODE)
cores = st.integers(1, MAX_CORES_PER_NODE)
unknown = st.sampled_from([None, 0])
hours = st.integers(0, 10**9)


@given(devices, cores)
def test_a_node_is_whole_numbers_of_slices_for_a_device_and_for_a_core(devices: int, cores: int) -> None:
    units = passports.units_per_node(devices, cores)
    assert units % devices == 0
    assert units % cores == 0


@given(devices, cores)
def test_no_larger_slice_would_do(devices: int, cores: int) -> None:
    units = passports.units_per_node(devices, cores)
    assert gcd(units // devices, units // cores) == 1


@given(cores, unknown)
def test_an_unknown_count_takes_no_part(cores: int, unknown: int | None) -> None:
    assert passports.units_per_node(unknown, cores) == passports.units_per_node(cores, unknown) == cores
    assert passports.units_per_node(unknown, unknown) == 1


@given(devices, st.data(), cores, hours)
def test_gpu_hours_and_node_hours_convert_without_a_remainder(
    devices: int, data: st.DataObject, cores: int, count: int
) -> None:
    gpus = data.draw(st.sampled_from([n for n in range(1, devices + 1) if devices % n == 0]))
    one = make.partition(devices_per_node=devices, gpus_per_node=gpus, cores_per_node=cores)
    passports.check_machine(make.machine(one))
    assert passports.node_hours(one, passports.slice_seconds_of_node_hours(one, count)) == count
    assert passports.gpu_hours(one, passports.slice_seconds_of_gpu_hours(one, count)) == count
    assert passports.slice_seconds_of_gpu_hours(one, count * gpus) == passports.slice_seconds_of_node_hours(one, count)


@given(st.integers(0, MAX_AMOUNT))
def test_any_amount_of_slice_seconds_survives_the_way_to_hours_and_back(amount: int) -> None:
    lumi_g = make.partition()
    assert passports.node_hours(lumi_g, amount) * 64 * 3600 == amount
    assert passports.gpu_hours(lumi_g, amount) == 4 * passports.node_hours(lumi_g, amount)


def test_a_year_of_the_largest_partition_fits_an_amount() -> None:
    most = max(passports.units_per_node(n, MAX_CORES_PER_NODE) for n in range(1, MAX_DEVICES_PER_NODE + 1))
    assert MAX_NODES * most * 366 * 86_400 < MAX_AMOUNT


def test_lumi_g_has_64_slices_and_an_accounted_gpu_16() -> None:
    lumi_g = make.partition()
    assert (lumi_g.units_per_node, lumi_g.slices_per_device, lumi_g.slices_per_gpu, lumi_g.slices_per_core) == (
        64,
        8,
        16,
        1,
    )
    assert passports.gpu_hours(lumi_g, 8 * 3600) == Fraction(1, 2)
    assert lumi_g.resource == "lumi/lumi-g/gpu-time"


def test_a_partition_without_devices_counts_node_time_and_has_no_gpu_hours() -> None:
    lumi_c = make.partition("lumi-c", kind="cpu", devices_per_node=None, gpus_per_node=None, cores_per_node=128)
    assert (lumi_c.resource, lumi_c.units_per_node, lumi_c.slices_per_gpu) == ("lumi/lumi-c/node-time", 128, None)
    with pytest.raises(UnknownUnit):
        passports.slice_seconds_of_gpu_hours(lumi_c, 1)


def test_every_machine_of_the_first_day_keeps_the_rules() -> None:
    for one in first_day.machines():
        passports.check_machine(one)


@pytest.mark.parametrize(("devices", "gpus"), [(8, 3), (4, 8), (None, 4)])
def test_accounted_gpus_that_do_not_divide_the_devices_are_refused(devices: int | None, gpus: int) -> None:
    with pytest.raises(UnevenGpus):
        passports.check_machine(make.machine(make.partition(devices_per_node=devices, gpus_per_node=gpus)))


def test_a_machine_with_one_partition_twice_is_refused() -> None:
    with pytest.raises(PartitionExists):
        passports.check_machine(make.machine(make.partition(), make.partition()))


def test_shares_that_are_not_the_whole_are_refused() -> None:
    with pytest.raises(Invalid):
        passports.check_machine(make.machine(union_share_pct=50, national_share_pct=40))


def test_a_partition_that_has_operated_keeps_its_slices_even_after_it_stopped() -> None:
    operating = passports.first_description(make.machine(make.partition()))
    stopped = passports.describe_again(operating, make.machine(make.partition(stage="decommissioned")))
    assert stopped.revision == 1
    with pytest.raises(UnitFixed) as refused:
        passports.describe_again(stopped, make.machine(make.partition(cores_per_node=128)))
    assert refused.value.units_per_node == 64


def test_a_partition_that_has_operated_cannot_be_left_out() -> None:
    operating = passports.first_description(make.machine(make.partition()))
    with pytest.raises(UnitFixed):
        passports.describe_again(operating, make.machine())


def test_a_partition_that_has_operated_cannot_change_from_gpu_time_to_node_time() -> None:
    by_device = passports.first_description(make.machine(make.partition(devices_per_node=64, gpus_per_node=64)))
    by_node = make.partition(devices_per_node=None, gpus_per_node=None)
    assert by_node.units_per_node == by_device.partitions[0].units_per_node
    with pytest.raises(UnitFixed):
        passports.describe_again(by_device, make.machine(by_node))


def test_a_planned_partition_may_still_learn_its_counts() -> None:
    planned = passports.first_description(make.machine(make.partition(stage="planned", cores_per_node=None)))
    assert not planned.partitions[0].unit_fixed
    known = passports.describe_again(planned, make.machine(make.partition()))
    assert known.partitions[0].unit_fixed
    assert known.partitions[0].units_per_node == 64


def test_a_retired_machine_cannot_be_retired_again_but_can_come_back() -> None:
    retired = passports.retire_machine(make.machine(), "worn out")
    assert (retired.retired, retired.revision, retired.retired_reason) == (True, 1, "worn out")
    with pytest.raises(AlreadyRetired):
        passports.retire_machine(retired, "again")
    back = passports.describe_again(retired, make.machine())
    assert (back.retired, back.revision, back.retired_reason) == (False, 2, None)


def test_an_unknown_reference_is_named() -> None:
    with pytest.raises(UnknownReference, match="unknown factories: nowhere"):
        passports.check_references("factories", ["lumi-aif", "nowhere"], ["lumi-aif"])


NO_WAIT = timedelta(0)


@pytest.mark.parametrize(
    ("wrong", "limit"),
    [
        ({"nodes_in_service": 2979}, 2978),
        ({"nodes_idle": 2901, "slices_idle": 2901 * 64}, 2900),
        ({"slices_idle": 2900 * 64 + 1}, 2900 * 64),
        ({"slices_idle": 6399}, 6399),
    ],
)
def test_a_report_that_contradicts_the_passport_or_itself_is_refused(wrong: dict[str, int], limit: int) -> None:
    with pytest.raises(AbsurdCapacity) as refused:
        accept_capacity(make.partition(), make.capacity(**wrong), None, may_be_ahead=NO_WAIT)
    assert refused.value.limit == limit


def test_without_a_known_number_of_nodes_only_thinkable_ones_are_accepted() -> None:
    unknown = make.partition(nodes=None)
    most = make.capacity(nodes_in_service=MAX_NODES)
    assert accept_capacity(unknown, most, None, may_be_ahead=NO_WAIT) == most
    with pytest.raises(AbsurdCapacity):
        accept_capacity(unknown, make.capacity(nodes_in_service=MAX_NODES + 1), None, may_be_ahead=NO_WAIT)


@given(st.integers(0, 2978), st.data())
def test_every_report_that_fits_the_passport_is_accepted(in_service: int, data: st.DataObject) -> None:
    idle = data.draw(st.integers(0, in_service))
    slices = data.draw(st.integers(idle * 64, in_service * 64))
    seen = make.capacity(nodes_in_service=in_service, nodes_idle=idle, slices_idle=slices)
    assert accept_capacity(make.partition(), seen, None, may_be_ahead=NO_WAIT) == seen


@given(st.integers(-(10**6), 10**6))
def test_the_latest_observation_is_kept_whatever_the_order(seconds: int) -> None:
    known = make.capacity()
    other = replace(
        known, observed_at=make.NOON + timedelta(seconds=seconds), received_at=make.NOON + timedelta(days=30)
    )
    if seconds < 0:
        with pytest.raises(StaleCapacity):
            accept_capacity(make.partition(), other, known.observed_at, may_be_ahead=NO_WAIT)
    else:
        assert accept_capacity(make.partition(), other, known.observed_at, may_be_ahead=NO_WAIT) == other


def test_an_observation_from_the_future_is_refused_beyond_the_tolerance() -> None:
    early = make.capacity(observed_at=make.NOON + timedelta(seconds=60))
    tolerance = timedelta(seconds=60)
    assert accept_capacity(make.partition(), early, None, may_be_ahead=tolerance) == early
    with pytest.raises(ObservedInFuture) as refused:
        accept_capacity(make.partition(), early, None, may_be_ahead=timedelta(seconds=59))
    assert refused.value.ahead_seconds == 60


def test_an_age_is_never_negative() -> None:
    assert age_seconds(make.capacity(), make.NOON + timedelta(seconds=90)) == 90
    assert age_seconds(make.capacity(), make.NOON - timedelta(seconds=90)) == 0
