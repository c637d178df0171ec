"""The rules of access as data: complete, versioned, and faithful to what is published."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from aifn_scheduler.policy_data import AccessMode, Policies, load_policies
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

KINDS = [kind.kind for kind in load_policies().applicant_kinds]


def _takes_gpu_hours(mode: AccessMode, gpu_hours: int) -> bool:
    if mode.fixed_gpu_hours is not None:
        return gpu_hours == mode.fixed_gpu_hours
    if mode.min_gpu_hours is None or mode.max_gpu_hours is None:
        return False
    above = gpu_hours > mode.min_gpu_hours if mode.min_gpu_hours_exclusive else gpu_hours >= mode.min_gpu_hours
    return above and gpu_hours <= mode.max_gpu_hours


def _industrial_modes_for(gpu_hours: int) -> list[str]:
    modes = [mode for mode in load_policies().modes if mode.track == "industrial_innovation"]
    return [mode.mode_id for mode in modes if _takes_gpu_hours(mode, gpu_hours)]


def _with(**changes: Any) -> dict[str, Any]:
    return {**load_policies().model_dump(), **changes}


def test_all_modes_of_the_table_are_there() -> None:
    modes = {mode.mode_id: mode.status for mode in load_policies().modes}
    assert len(modes) == 17
    assert [mode for mode, status in modes.items() if status == "historical"] == ["ai_data_intensive"]
    assert {mode for mode, status in modes.items() if status == "proposed"} == {
        "small_ai_proposed",
        "ai_office_fund_proposed",
    }


def test_every_mode_says_who_decides_and_from_which_pool() -> None:
    for mode in load_policies().modes:
        assert mode.deciding_authority
        assert mode.deciding_authority_basis
        assert mode.pool == ("national" if mode.mode_id == "host_national" else "union")


def test_the_factory_decides_on_the_first_come_modes_and_the_ju_on_large_scale() -> None:
    policies = load_policies()
    assert policies.mode("aif_playground").deciding_authority == "hosting_factory"
    assert policies.mode("aif_fast_lane").deciding_authority == "hosting_factory"
    assert policies.mode("aif_large_scale").deciding_authority == "ju"


def test_playground_is_fixed_at_5000_gpu_hours_and_answers_in_two_working_days() -> None:
    playground = load_policies().mode("aif_playground")
    assert (playground.amount_kind, playground.fixed_gpu_hours) == ("fixed_per_machine", 5_000)
    assert (playground.decision_target_value, playground.decision_target_unit) == (2, "working_days")
    assert playground.ordering == "first_come_first_served"
    assert playground.allocation_duration_months == (1, 2, 3)


def test_fast_lane_is_above_10000_and_up_to_50000_gpu_hours() -> None:
    fits = [amount for amount in (10_000, 10_001, 50_000, 50_001) if "aif_fast_lane" in _industrial_modes_for(amount)]
    assert fits == [10_001, 50_000]


@given(st.integers(min_value=5_001, max_value=10_000))
def test_no_industrial_mode_covers_more_than_5000_and_up_to_10000_gpu_hours(gpu_hours: int) -> None:
    assert _industrial_modes_for(gpu_hours) == []


@given(st.integers(min_value=10_001, max_value=2_400_000))
def test_above_10000_gpu_hours_exactly_one_industrial_mode_fits(gpu_hours: int) -> None:
    assert len(_industrial_modes_for(gpu_hours)) == 1


def test_a_startup_is_an_sme_is_industry() -> None:
    policies = load_policies()
    assert policies.kind_and_above("startup") == ("startup", "sme", "industry")
    assert policies.kind_and_above("research_institute") == ("research_institute", "academia")
    assert policies.kind_and_above("civil_society") == ("civil_society",)


@given(st.sampled_from(KINDS))
def test_every_kind_leads_up_to_one_without_a_kind_above(kind: str) -> None:
    above = {each.kind: each.is_a for each in load_policies().applicant_kinds}
    chain = load_policies().kind_and_above(kind)
    assert chain[0] == kind
    assert above[chain[-1]] is None
    assert len(chain) == len(set(chain))


def test_an_unknown_kind_or_mode_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        load_policies().kind_and_above("wizard")
    with pytest.raises(KeyError):
        load_policies().mode("magic")


def test_the_policy_in_force_changes_with_the_month() -> None:
    policies = load_policies()
    found = [
        version.version if (version := policies.version_in_force(day)) else None
        for day in (date(2021, 5, 31), date(2021, 6, 1), date(2025, 3, 31), date(2025, 11, 30), date(2026, 10, 10))
    ]
    assert found == [None, "2021-06", "2023-12", "2025-04", "2025-12"]


def test_ceilings_belong_to_a_version_and_those_carried_over_say_so() -> None:
    policies = load_policies()
    old = {cap.group: cap.cap_pct for cap in policies.caps_of("2023-12")}
    assert old == {"benchmark_and_development": 5, "regular": 70, "extreme_scale": 50, "ai_data_intensive": 20}
    new = {cap.group: (cap.cap_pct, cap.carried_over) for cap in policies.caps_of("2025-12")}
    assert new["playground_and_fast_lane"] == (10, False)
    assert new["industrial_innovation"] == (30, False)
    assert new["regular"] == (70, True)
    assert policies.caps_of("2025-04") == ()


def test_a_mode_with_a_group_has_the_ceiling_of_the_group() -> None:
    policies = load_policies()
    for mode in policies.modes:
        if mode.share_cap_group is not None and mode.policy_version is not None:
            caps = {cap.group: cap.cap_pct for cap in policies.caps_of(mode.policy_version)}
            assert caps[mode.share_cap_group] == mode.share_cap_pct


def test_countries_are_three_lists_and_know_their_aliases() -> None:
    policies = load_policies()
    members = [country for country in policies.countries if country.eu_member_state]
    others = {c.country_code for c in policies.countries if c.ju_participating_state_2024_09 and not c.eu_member_state}
    assert len(members) == policies.eligibility.participating_states_sept_2024.eu_member_states == 27
    assert others == set(policies.eligibility.participating_states_sept_2024.other_country_codes)
    assert policies.country("EL") == policies.country("GR")
    assert policies.country("UK") == policies.country("GB")
    assert policies.country("US") is None


def test_membership_that_is_not_known_stays_unknown() -> None:
    switzerland = load_policies().country("CH")
    assert switzerland is not None
    assert switzerland.digital_europe_associated is None


def test_what_no_source_gives_stays_null() -> None:
    fast_track = load_policies().mode("fast_track")
    assert (fast_track.selection_kind, fast_track.amount_kind, fast_track.policy_version) == (None, None, None)
    assert load_policies().mode("commercial_pay_per_use").max_gpu_hours is None


def test_every_mode_and_ceiling_keeps_its_source() -> None:
    policies = load_policies()
    assert all(mode.source and mode.confidence for mode in policies.modes)
    assert all(cap.source and cap.confidence for cap in policies.share_caps)


def test_a_circle_of_kinds_is_refused() -> None:
    kinds = [{**kind, "is_a": "startup"} if kind["kind"] == "industry" else kind for kind in _with()["applicant_kinds"]]
    with pytest.raises(ValidationError, match="kind startup stands above itself"):
        Policies.model_validate(_with(applicant_kinds=kinds))


def test_a_mode_for_an_unknown_kind_of_applicant_is_refused() -> None:
    first, *rest = _with()["modes"]
    with pytest.raises(ValidationError, match="mode benchmark names unknown kind wizard"):
        Policies.model_validate(_with(modes=[{**first, "applicant_categories": ["wizard"]}, *rest]))
