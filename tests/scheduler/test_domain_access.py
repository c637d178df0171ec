"""The eligibility rules: each one alone, and that all of them are always named."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aifn_scheduler.actions.access import seed_calls
from aifn_scheduler.domain.access import (
    Ask,
    Call,
    Finding,
    NotCountable,
    after_months,
    award_lines,
    decide_eligibility,
    eligible,
    nearest_offers,
    slice_seconds,
)
from aifn_scheduler.domain.machines import LUMI_G
from aifn_scheduler.policy_data import load_policies
from hypothesis import given
from hypothesis import strategies as st

from tests.scheduler.make import BOOSTER, LUMI_C, NOW, PARTITIONS, application, organisation

CALLS = {call.mode: call for call in seed_calls()}
PLAYGROUND, FAST_LANE = CALLS["aif_playground"], CALLS["aif_fast_lane"]
POLICIES = load_policies()
YES = {"civilian_use": True, "ai_act_compliance": True}


def decide(call: Call = PLAYGROUND, now: datetime = NOW, partitions: Any = None, **values: Any) -> dict[str, Finding]:
    findings = decide_eligibility(application(**values), call, POLICIES, partitions or PARTITIONS, now)
    return {finding.rule: finding for finding in findings}


def failed(findings: dict[str, Finding]) -> list[str]:
    return [rule for rule, finding in findings.items() if not finding.passed]


def test_a_complete_playground_request_of_a_startup_passes_every_rule() -> None:
    findings = decide()
    assert failed(findings) == []
    assert set(findings) == {
        "call_open",
        "applicant_kind",
        "sme_definition",
        "country",
        "civilian_use_only",
        "ai_act_compliance",
        "organisation_required",
        "amount",
        "duration",
        "single_machine",
        "partition",
    }


def test_every_rule_is_cited_with_a_source_even_when_several_fail() -> None:
    findings = decide(gpu_hours=7, months=9, statements={}, organisation=organisation(kind="academia", country="US"))
    assert failed(findings) == [
        "applicant_kind",
        "country",
        "civilian_use_only",
        "ai_act_compliance",
        "amount",
        "duration",
    ]
    assert len(findings) == len(decide())
    assert all(finding.source and finding.because for finding in findings.values())


@pytest.mark.parametrize(
    ("kind", "passes", "word"),
    [
        ("startup", True, "startup is sme is industry"),
        ("sme", True, "open to sme"),
        ("large_company", False, "open to sme, startup only"),
        ("industry", False, "open to sme, startup only"),
        ("academia", False, "excludes academia"),
        ("research_institute", False, "excludes academia"),
        ("competence_centre", False, "excludes public_sector"),
        ("civil_society", False, "open to sme, startup only"),
        ("bakery", False, "no known kind"),
    ],
)
def test_a_kind_fits_when_it_or_one_above_it_is_listed_and_exclusion_wins(kind: str, passes: bool, word: str) -> None:
    finding = decide(organisation=organisation(kind=kind))["applicant_kind"]
    assert (finding.passed, word in finding.because) == (passes, True)


@pytest.mark.parametrize(
    ("staff", "turnover", "passes"),
    [
        (249, 50_000_000, True),
        (250, 50_000_000, False),
        (249, 50_000_001, False),
        (0, 0, True),
        (12, None, False),
    ],
)
def test_an_sme_has_fewer_than_250_staff_and_at_most_50_million(staff: int, turnover: int | None, passes: bool) -> None:
    found = decide(organisation=organisation(staff=staff, turnover_eur=turnover))["sme_definition"]
    assert found.passed is passes


@pytest.mark.parametrize(
    ("country", "passes", "word"),
    [
        ("FI", True, "Member State"),
        ("EL", True, "Greece is an EU Member State"),
        ("NO", True, "associated to Horizon Europe"),
        ("GB", True, "associated to Horizon Europe"),
        ("LI", True, "associated to Digital Europe"),
        ("CH", False, "not known here, so not yet"),
        ("US", False, "in none of the lists"),
    ],
)
def test_the_organisation_must_be_established_in_a_member_or_associated_state(
    country: str, passes: bool, word: str
) -> None:
    finding = decide(organisation=organisation(country=country))["country"]
    assert (finding.passed, word in finding.because) == (passes, True)


def test_an_association_counts_from_its_first_day() -> None:
    before = decide(organisation=organisation(country="GB"), now=datetime(2023, 12, 31, tzinfo=UTC))["country"]
    assert not before.passed
    assert "not yet associated to Horizon Europe" in before.because


def test_the_unions_country_rule_does_not_bind_a_national_share() -> None:
    assert decide(replace(PLAYGROUND, pool="national"), organisation=organisation(country="US"))["country"].passed


@pytest.mark.parametrize(
    ("call", "gpu_hours", "passes", "word"),
    [
        (PLAYGROUND, 5000, True, "5000"),
        (PLAYGROUND, 4999, False, "nearest above is aif_playground (5000)"),
        (PLAYGROUND, 7000, False, "nearest below is aif_playground (5000), nearest above aif_fast_lane"),
        (PLAYGROUND, 10_001, False, "aif_fast_lane takes 10001"),
        (FAST_LANE, 10_000, False, "nearest below is aif_playground (5000), nearest above aif_fast_lane"),
        (FAST_LANE, 10_001, True, "more than 10000, up to 50000"),
        (FAST_LANE, 50_000, True, "more than 10000, up to 50000"),
        (FAST_LANE, 50_001, False, "aif_large_scale takes 50001"),
        (FAST_LANE, 5000, False, "aif_playground takes 5000"),
    ],
)
def test_an_amount_outside_a_mode_names_the_mode_that_takes_it_or_the_nearest_ones(
    call: Call, gpu_hours: int, passes: bool, word: str
) -> None:
    finding = decide(call, gpu_hours=gpu_hours)["amount"]
    assert (finding.passed, word in finding.because) == (passes, True)


@given(st.integers(5001, 10_000))
def test_no_industrial_mode_takes_what_lies_between_5000_and_10000(gpu_hours: int) -> None:
    assert nearest_offers(gpu_hours, POLICIES.mode("aif_fast_lane"), POLICIES).startswith("no current mode takes")


@pytest.mark.parametrize(("months", "passes"), [(1, True), (3, True), (4, False), (12, False)])
def test_only_published_durations_are_given(months: int, passes: bool) -> None:
    assert decide(months=months)["duration"].passed is passes


def test_asks_on_two_machines_fail_a_call_of_one_machine() -> None:
    both = (Ask("lumi-g", 2500), Ask("leonardo-booster", 2500))
    assert failed(decide(asks=both)) == ["single_machine"]
    assert failed(decide(replace(PLAYGROUND, single_machine=False), asks=both)) == []


@pytest.mark.parametrize(
    ("partition", "call", "word"),
    [
        (None, PLAYGROUND, "no partition lumi-g is known"),
        (replace(LUMI_G, stage="installing"), PLAYGROUND, "not operating (installing)"),
        (replace(LUMI_G, retired=True), PLAYGROUND, "not operating"),
        (LUMI_G, replace(PLAYGROUND, partitions=("lumi-c",)), "not offered in this call"),
        (replace(LUMI_G, gpus_per_node=None), PLAYGROUND, "cannot be counted in GPU-hours"),
    ],
)
def test_a_partition_must_be_known_operating_offered_and_countable(partition: Any, call: Call, word: str) -> None:
    known = {} if partition is None else {"lumi-g": partition}
    finding = decide(call, partitions=known or {"lumi-c": LUMI_C})["partition"]
    assert (finding.passed, word in finding.because) == (False, True)


def test_a_call_takes_applications_from_its_opening_until_before_its_closing() -> None:
    call = replace(PLAYGROUND, opens_at=NOW, closes_at=NOW + timedelta(days=1))
    assert decide(call, now=NOW)["call_open"].passed
    assert not decide(call, now=NOW - timedelta(seconds=1))["call_open"].passed
    assert not decide(call, now=NOW + timedelta(days=1))["call_open"].passed


def test_an_unknown_statement_is_no_statement() -> None:
    assert failed(decide(statements={"civilian_use": False, "ai_act_compliance": True})) == ["civilian_use_only"]
    assert failed(decide(statements=YES)) == []


@given(st.integers(1, 10**9), st.sampled_from([LUMI_G, BOOSTER]))
def test_a_gpu_hour_is_a_whole_number_of_slice_seconds(gpu_hours: int, partition: Any) -> None:
    per_gpu = partition.units_per_node // partition.gpus_per_node
    assert slice_seconds(partition, gpu_hours) == gpu_hours * 3600 * per_gpu


def test_an_amount_that_is_not_whole_is_refused() -> None:
    with pytest.raises(NotCountable):
        slice_seconds(replace(LUMI_G, gpus_per_node=7), 1)


def test_an_award_gives_each_ask_in_the_partitions_own_resource() -> None:
    (line,) = award_lines([Ask("leonardo-booster", 5000)], PARTITIONS)
    assert (line.machine_id, line.resource) == ("leonardo", "leonardo/leonardo-booster/gpu-time")
    assert line.amount == 1250 * 3600 * 32


@given(st.integers(0, 3_000_000_000), st.integers(1, 120))
def test_months_later_is_in_the_right_month_and_no_day_later(seconds: int, months: int) -> None:
    start = datetime.fromtimestamp(seconds, UTC)
    end = after_months(start, months)
    assert (end.year * 12 + end.month) - (start.year * 12 + start.month) == months
    assert start.day - 3 <= end.day <= start.day
    assert end.timetz() == start.timetz()


def test_a_finding_that_fails_makes_the_application_ineligible() -> None:
    assert eligible([Finding("a", True, "", "")])
    assert not eligible([Finding("a", True, "", ""), Finding("b", False, "", "")])
