"""The rules of pools, ceilings, policies and exchanges, without a database."""

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from aifn_accounting.domain import policies
from aifn_accounting.domain.exchange import Exchange, Side, WrongAgreement, legs
from aifn_accounting.domain.ledger import AbsurdAmount, Balance
from aifn_accounting.domain.pools import (
    Asked,
    Cap,
    OverPoolLimit,
    Pool,
    PoolNotOpen,
    WrongEarmark,
    WrongPool,
    caps_over,
    ceiling,
    check_pool,
    choose_pool,
    group_of,
    headroom,
    machine_time,
)
from aifn_accounting.policy_data import cap_rules, extension_rule, use_or_lose_policies
from hypothesis import given
from hypothesis import strategies as st

from tests.accounting.make import GPU, START, hours

YEAR = {"starts_at": datetime(2026, 1, 1, tzinfo=UTC), "ends_at": datetime(2027, 1, 1, tzinfo=UTC)}
MADE = {"account": 1, "revision": 0, "created_by": "fund@example", "created_at": START}


def pool(pool_id: str = "union-2026", **values: Any) -> Pool:
    usual: dict[str, Any] = {
        "kind": "union", "title": "a share", "parent": None, "funder": "ju", "factory_id": "lumi-aif", "resource": GPU,
        "funded": 1000, "passed_on": 0, "reserved": 0, "earmark": None, "use_or_lose": None, "most_per_grant": None,
        "longest_days": None,
    }  # fmt: skip
    return Pool(id=pool_id, **(usual | YEAR | MADE | values))


def cap(cap_id: str, *modes: str, **values: Any) -> Cap:
    usual: dict[str, Any] = {
        "factory_id": "lumi-aif", "policy_version": "2025-12", "mode_group": cap_id, "modes": modes,
        "pool_kind": "union", "resource": GPU, "pct": 10, "base": "share", "base_amount": 1000, "ceiling": 100,
        "used": 0, "yields": False, "source": "a test",
    }  # fmt: skip
    return Cap(id=cap_id, **(usual | YEAR | MADE | values))


def asked(amount: int = 100, **values: Any) -> Asked:
    usual = Asked(GPU, "union", amount, START, START + timedelta(days=60), "aif_playground", "2025-12")
    return replace(usual, **values)


# Pools


def test_a_resource_without_pools_is_not_rationed_and_one_with_pools_elsewhere_in_time_is_not_open() -> None:
    assert choose_pool([], asked()) is None
    assert choose_pool([pool(kind="national")], asked()) is None
    with pytest.raises(PoolNotOpen):
        choose_pool([pool(starts_at=START + hours(1))], asked())
    with pytest.raises(PoolNotOpen):
        choose_pool([pool(ends_at=START)], asked())


def test_of_several_pools_the_first_to_end_that_has_enough_is_taken_and_else_the_one_with_most() -> None:
    long, short = pool("long", ends_at=YEAR["ends_at"] + timedelta(days=1)), pool("short")
    poor = replace(short, id="poor", passed_on=950, ends_at=START + hours(5))
    found = choose_pool([long, short, poor], asked())
    assert found is not None
    assert found.id == "short"
    most = choose_pool([replace(short, passed_on=990), poor], asked())
    assert most is not None
    assert most.id == "poor"


def test_an_earmarked_pool_gives_for_its_purpose_only() -> None:
    marked = pool("safety", earmark="model evaluation")
    with pytest.raises(PoolNotOpen):
        choose_pool([marked], asked())
    assert choose_pool([pool(), marked], asked(earmark="model evaluation")) == marked
    with pytest.raises(WrongEarmark):
        check_pool(marked, asked())
    with pytest.raises(WrongEarmark):
        check_pool(pool(), asked(earmark="model evaluation"))


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"resource": "lumi/lumi-c/node-time"}, WrongPool),
        ({"kind": "national"}, WrongPool),
        ({"ends_at": START}, PoolNotOpen),
        ({"most_per_grant": 99}, OverPoolLimit),
        ({"longest_days": 59}, OverPoolLimit),
    ],
)
def test_a_named_pool_must_fit(changed: dict[str, Any], refusal: type[Exception]) -> None:
    check_pool(pool(most_per_grant=100, longest_days=60), asked())
    with pytest.raises(refusal):
        check_pool(pool(**changed), asked())


# Caps


def test_a_mode_in_a_group_inside_a_group_counts_under_both_and_under_no_other_version() -> None:
    track = cap("track", "aif_playground", "aif_fast_lane", "aif_large_scale")
    small = cap("small", "aif_playground", "aif_fast_lane")
    others = [
        cap("regular", "regular"),
        cap("old", "aif_playground", policy_version="2025-04"),
        cap("later", "aif_playground", starts_at=START + hours(1)),
        cap("national", "aif_playground", pool_kind="national"),
    ]
    found = caps_over([track, *others, small], asked())
    assert [one.id for one in found] == ["small", "track"]
    assert group_of(found) == small
    assert group_of([]) is None


def test_headroom_is_the_smallest_of_all_bounds_and_a_yielding_group_leaves_what_others_need() -> None:
    assert headroom(None, []) is None
    assert headroom(pool(passed_on=950), [cap("a", "x", used=30)]) == 50
    assert headroom(pool(), [cap("a", "x", used=30), cap("b", "x", used=95)]) == 5
    assert headroom(pool(reserved=990), [cap("a", "x")]) == 100
    assert headroom(pool(reserved=990), [cap("a", "x", yields=True)]) == 10
    assert headroom(None, [cap("a", "x", used=150)]) == 0


@given(st.integers(0, 100), st.integers(0, 10**15))
def test_a_ceiling_is_never_above_its_percentage(pct: int, base: int) -> None:
    assert ceiling(pct, base) * 100 <= base * pct < (ceiling(pct, base) + 1) * 100


def test_the_time_of_a_machine_is_nodes_times_slices_times_seconds_and_not_absurd() -> None:
    assert machine_time(units_per_node=64, nodes=2, starts_at=START, ends_at=START + hours(1)) == 64 * 2 * 3600
    with pytest.raises(AbsurdAmount):
        machine_time(units_per_node=10**6, nodes=10**6, starts_at=START, ends_at=START + hours(1))


def test_published_ceilings_have_sources_and_no_version_has_a_group_twice() -> None:
    rules = cap_rules()
    assert {(one.policy_version, one.mode_group, one.pct) for one in rules if not one.carried_over} == {
        ("2023-12", "benchmark_and_development", 5), ("2023-12", "regular", 70), ("2023-12", "extreme_scale", 50),
        ("2023-12", "ai_data_intensive", 20), ("2025-12", "industrial_innovation", 30),
        ("2025-12", "playground_and_fast_lane", 10), ("2025-12", "ai_for_science", 25),
    }  # fmt: skip
    assert len({(one.policy_version, one.mode_group) for one in rules}) == len(rules)
    assert all(one.source and one.modes for one in rules)


# Use or lose


def cuts(policy: str, used: dict[int, int], *, days: int, done: frozenset[str] = frozenset()) -> list[tuple[str, int]]:
    found = policies.due_cuts(
        use_or_lose_policies()[policy],
        starts_at=YEAR["starts_at"],
        ends_at=YEAR["ends_at"],
        granted=1200,
        used_by_month=used,
        now=YEAR["starts_at"] + timedelta(days=days),
        done=done,
    )
    return [(one.step, one.amount) for one in found]


def test_the_danish_share_is_cut_once_after_six_months_under_40_percent() -> None:
    assert cuts("lumi-dk", {0: 100}, days=180) == []
    assert cuts("lumi-dk", {0: 479}, days=181) == [("after-6-months", 600 - 479)]
    assert cuts("lumi-dk", {0: 480}, days=181) == [("after-6-months", 0)]
    assert cuts("lumi-dk", {0: 100, 7: 1000}, days=300) == [("after-6-months", 500)]
    assert cuts("lumi-dk", {}, days=300, done=frozenset({"after-6-months"})) == []


def test_every_second_month_the_unused_hours_of_the_first_are_deducted() -> None:
    assert cuts("evora-window", {0: 30}, days=58) == []
    assert cuts("evora-window", {0: 30, 2: 500}, days=121) == [("window-from-month-0", 70), ("window-from-month-2", 0)]
    assert len(cuts("evora-window", {}, days=3000)) == 6


def test_a_monthly_quota_takes_nothing_and_says_what_is_over_it() -> None:
    assert cuts("cineca-monthly", {}, days=3000) == []
    quota = policies.quota_now(**YEAR, granted=1200, used_by_month={10: 130}, now=datetime(2026, 11, 21, tzinfo=UTC))
    assert quota == policies.Quota(10, 100, 130)
    assert quota.over == 30
    assert policies.quota_now(**YEAR, granted=1200, used_by_month={}, now=YEAR["ends_at"]) is None


@given(st.integers(0, 10**15), st.integers(1, 60))
def test_monthly_parts_sum_to_the_whole_and_differ_by_one_at_most(granted: int, months: int) -> None:
    parts = policies.quotas(granted, months)
    assert sum(parts) == granted
    assert max(parts) - min(parts) <= 1


@given(st.datetimes(timezones=st.just(UTC)), st.integers(0, 240))
def test_a_later_month_is_later_and_never_past_the_calendar(moment: datetime, months: int) -> None:
    assert policies.add_months(moment, months) >= moment


# Extensions, contracts, thresholds, inference


def test_an_award_is_extended_once_by_three_months_and_ten_percent_and_a_hosts_own_grant_as_it_likes() -> None:
    rule, end = extension_rule("regular"), YEAR["ends_at"]
    end_of_march = datetime(2027, 4, 1, tzinfo=UTC)
    policies.check_extension("a1", rule, None, extended=0, first_ends_at=end, ends_at=end_of_march)
    with pytest.raises(policies.ExtensionTooLong):
        policies.check_extension(
            "a1", rule, None, extended=0, first_ends_at=end, ends_at=end_of_march + timedelta(seconds=1)
        )
    with pytest.raises(policies.ExtendedBefore):
        policies.check_extension("a1", rule, None, extended=1, first_ends_at=end, ends_at=end_of_march)
    policies.check_extension("a1", None, None, extended=9, first_ends_at=end, ends_at=end + timedelta(days=3000))
    policies.check_growth("a1", rule, None, first=1000, granted=1050, more=50)
    with pytest.raises(policies.ExtensionTooLarge):
        policies.check_growth("a1", rule, None, first=1000, granted=1050, more=51)


def test_a_policy_that_grants_no_extension_refuses_time_and_amount() -> None:
    danish = use_or_lose_policies()["lumi-dk"]
    with pytest.raises(policies.NoExtension):
        policies.check_extension("a1", None, danish, extended=0, first_ends_at=START, ends_at=START + hours(1))
    with pytest.raises(policies.NoExtension):
        policies.check_growth("a1", None, danish, first=1000, granted=1000, more=1)


def test_a_contract_must_run_three_months_longer_and_an_unknown_one_passes() -> None:
    end = datetime(2026, 11, 30, tzinfo=UTC)
    policies.check_contract("pi", date(2027, 2, 28), end, 3)
    policies.check_contract("pi", None, end, 3)
    with pytest.raises(policies.ContractTooShort) as caught:
        policies.check_contract("pi", date(2027, 2, 27), end, 3)
    assert (caught.value.ends_on, caught.value.needed) == ("2027-02-27", "2027-02-28")


def test_thresholds_are_passed_upwards_by_charges_only() -> None:
    def reached(before: tuple[int, int], after: tuple[int, int]) -> list[int]:
        return list(policies.thresholds_reached(Balance(*before), Balance(*after)))

    assert reached((100, 0), (100, 0)) == []
    assert policies.thresholds_reached(Balance(100, 0, 49), Balance(100, 0, 50)) == [50]
    assert policies.thresholds_reached(Balance(100, 0, 0), Balance(100, 0, 130)) == [50, 80, 100]
    assert policies.thresholds_reached(Balance(100, 0, 60), Balance(60, 0, 60)) == []
    assert policies.thresholds_reached(Balance(100, 0, 90), Balance(100, 0, 40)) == []
    assert policies.thresholds_reached(Balance(0, 0, 0), Balance(0, 0, 5)) == []


def test_inference_is_warned_of_at_80_percent_and_refused_above_100() -> None:
    limit = policies.inference_limit(1009, 10)
    assert limit == 100
    assert policies.check_inference("a1", used=0, limit=limit, asked=79) == []
    assert policies.check_inference("a1", used=0, limit=limit, asked=80) == [80]
    assert policies.check_inference("a1", used=85, limit=limit, asked=15) == [100]
    with pytest.raises(policies.InferenceCapReached) as caught:
        policies.check_inference("a1", used=90, limit=limit, asked=11)
    assert caught.value.available == 10


# Exchanges

FACTORIES = st.sampled_from(["lumi-aif", "bsc-aif", "it4lia"])
OWN = {"lumi-aif": GPU, "bsc-aif": "mn5/acc/gpu-time", "it4lia": "leonardo/booster/gpu-time"}


@st.composite
def exchanges(draw: st.DrawFn) -> Exchange:
    home, receiver = draw(st.lists(FACTORIES, min_size=2, max_size=2, unique=True))
    rate = st.integers(1, 1000)
    return Exchange(home, receiver, OWN[receiver], draw(st.integers(0, 10**9)), OWN[home], draw(rate), draw(rate))


@given(st.lists(st.tuples(exchanges(), st.booleans(), st.booleans()), max_size=30))
def test_whatever_is_settled_every_resource_sums_to_zero_and_clearing_is_what_is_owed(
    settled: list[tuple[Exchange, bool, bool]],
) -> None:
    accounts: dict[tuple[str, str, str], int] = defaultdict(int)
    owed: dict[tuple[str, str], int] = defaultdict(int)
    for exchange, home, receiver in settled:
        sides: list[Side] = [side for side, books in (("home", home), ("receiver", receiver)) if books]  # type: ignore[misc]
        for side in sides:
            for leg in legs(exchange, side):
                books = exchange.home if side == "home" else exchange.receiver
                for end, sign in ((leg.source, -1), (leg.target, 1)):
                    owner = exchange.clearing if end == "clearing" else books
                    accounts[owner, end, leg.resource] += sign * leg.amount
        if home:
            owed[exchange.clearing, exchange.home_resource] -= exchange.home_amount
        if receiver:
            owed[exchange.clearing, exchange.resource] += exchange.amount
    totals: dict[str, int] = defaultdict(int)
    for (_, _, resource), amount in accounts.items():
        totals[resource] += amount
    assert not any(totals.values())
    clearing = {(owner, resource): amount for (owner, end, resource), amount in accounts.items() if end == "clearing"}
    assert {key: amount for key, amount in clearing.items() if amount} == {k: v for k, v in owed.items() if v}


@given(exchanges())
def test_the_home_allocation_pays_the_agreed_rate_rounded_up_by_less_than_a_unit(exchange: Exchange) -> None:
    exact = exchange.amount * exchange.numerator
    assert exact <= exchange.home_amount * exchange.denominator < exact + exchange.denominator


@pytest.mark.parametrize("changed", [{"receiver": "lumi-aif"}, {"numerator": 0}, {"denominator": -1}, {"amount": -1}])
def test_an_agreement_that_makes_no_sense_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(WrongAgreement):
        replace(Exchange("lumi-aif", "bsc-aif", "mn5/acc/gpu-time", 1, GPU, 1, 1), **changed)
