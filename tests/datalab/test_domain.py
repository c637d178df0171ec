"""Who may use a dataset: the rules alone."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, get_args

import pytest
from aifn_datalab import domain
from aifn_datalab.domain import (
    AccessRequest,
    AlreadyDecided,
    AlreadyGranted,
    Dataset,
    DatasetRetired,
    DescriptionIncomplete,
    GrantForbidden,
    LocationRefused,
    Place,
    RequestOpen,
    check_description,
    check_location,
    check_not_asked_twice,
    decide,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.datalab.make import NEXT_YEAR, NOW, YEAR_AFTER, dataset, personal, place, project, wish

COUNTRIES = st.sampled_from(["FI", "ES", "IT"])
PLACES = st.lists(
    st.builds(
        Place,
        allocation_id=st.just("alloc-1"),
        machine_id=st.sampled_from(["lumi", "mn5", "leonardo"]),
        country=st.none() | COUNTRIES,
        ends_at=st.sampled_from([NEXT_YEAR, YEAR_AFTER]),
    ),
    max_size=4,
)
DATASETS = st.builds(
    lambda sensitivity, grade, residency, retired: dataset(
        sensitivity=sensitivity,
        grade=grade,
        residency=tuple(sorted(residency)) or (("FI",) if sensitivity == "personal" else ()),
        retired=retired,
        legal_basis="consent",
    ),
    st.sampled_from(get_args(domain.Sensitivity)),
    st.sampled_from(get_args(domain.Grade)),
    st.sets(COUNTRIES),
    st.booleans(),
)
WISHES = st.builds(
    lambda purpose, basis: wish(purpose=purpose, legal_basis=basis),
    st.sampled_from(["", "  ", "train a model"]),
    st.none() | st.sampled_from(get_args(domain.LegalBasis)),
)
PROJECTS = st.builds(
    lambda factory, closed: project(factory_id=factory, closed=closed),
    st.sampled_from(["lumi-aif", "bsc-aif"]),
    st.booleans(),
)


def decided(offered: Dataset, request: AccessRequest | None = None, places: list[Place] | None = None) -> AccessRequest:
    return decide(offered, project(), request or wish(), [place()] if places is None else places, NOW)


def rules(request: AccessRequest) -> dict[str, str]:
    return {finding.rule: finding.outcome for finding in request.findings}


def test_open_data_are_granted_at_once_even_before_an_allocation_is_known() -> None:
    request = decided(dataset(), wish(purpose="", legal_basis=None), [])
    assert (request.state, request.decided_by, request.expires_at) == ("granted", "rule", None)
    assert rules(request) == {"on_offer": "passed", "project_open": "passed", "open_data": "passed"}


def test_personal_data_are_granted_with_basis_purpose_and_matching_residency() -> None:
    request = decided(personal())
    assert request.state == "granted"
    assert {"purpose", "legal_basis", "allocation", "residency"} <= rules(request).keys()


@pytest.mark.parametrize(("words", "rule"), [({"legal_basis": None}, "legal_basis"), ({"purpose": "  "}, "purpose")])
def test_personal_data_are_refused_without_basis_or_purpose(words: dict[str, str | None], rule: str) -> None:
    request = decided(personal(), wish(**words))
    assert request.state == "refused"
    assert rules(request)[rule] == "failed"


def test_personal_data_are_refused_when_the_project_computes_abroad_only() -> None:
    request = decided(personal(), places=[place("ES", name="mn5")])
    assert request.state == "refused"
    assert "residency: may lie in FI only, not on mn5 (ES)" in request.reasons()


def test_a_project_that_computes_at_home_and_abroad_is_left_to_the_steward() -> None:
    request = decided(personal(), places=[place(), place("ES", name="mn5")])
    assert (request.state, request.waits_for) == ("pending", "steward")


def test_personal_data_wait_while_no_allocation_or_no_country_is_known() -> None:
    for places in ([], [place(None)]):
        request = decided(personal(), places=places)
        assert (request.state, request.waits_for) == ("pending", "allocation")


@pytest.mark.parametrize("words", [{"sensitivity": "confidential"}, {"grade": "industrial"}])
def test_confidential_and_industrial_data_wait_for_the_steward(words: dict[str, str]) -> None:
    request = decided(dataset(**({"grade": "data_space"} | words)))
    assert (request.state, request.waits_for, request.decided_at) == ("pending", "steward", None)


def test_internal_data_go_to_projects_of_the_same_factory_and_others_ask_the_steward() -> None:
    internal = dataset(sensitivity="internal", grade="data_space")
    assert decided(internal).state == "granted"
    other = decide(internal, project(factory_id="bsc-aif"), wish(), [place()], NOW)
    assert (other.state, other.waits_for) == ("pending", "steward")


def test_a_retired_dataset_and_a_closed_project_are_refused() -> None:
    assert decided(dataset(retired=True)).state == "refused"
    assert decide(dataset(), project(closed=True), wish(), [], NOW).state == "refused"


@given(DATASETS, PROJECTS, WISHES, PLACES)
def test_a_rule_grants_only_when_every_finding_passed_and_every_finding_is_cited(
    offered: Dataset, asking: domain.Project, request: AccessRequest, places: list[Place]
) -> None:
    after = decide(offered, asking, request, places, NOW)
    outcomes = set(rules(after).values())
    assert (after.state == "granted") == (outcomes == {"passed"})
    assert (after.state == "refused") == ("failed" in outcomes)
    assert (after.waits_for is None) == (after.state != "pending") == (after.decided_at is not None)
    assert len(after.reasons()) == len(after.findings) >= 2
    assert all(finding.because and finding.source for finding in after.findings)


@given(DATASETS, WISHES, PLACES)
def test_personal_data_are_never_granted_by_rule_to_a_place_outside_their_countries(
    offered: Dataset, request: AccessRequest, places: list[Place]
) -> None:
    after = decide(replace(offered, sensitivity="personal", residency=("FI",)), project(), request, places, NOW)
    if after.state == "granted":
        assert places
        assert {one.country for one in places} == {"FI"}
        assert request.legal_basis is not None
        assert request.purpose.strip()


@given(DATASETS, PROJECTS, WISHES, PLACES)
def test_a_steward_can_never_grant_what_a_rule_refuses(
    offered: Dataset, asking: domain.Project, request: AccessRequest, places: list[Place]
) -> None:
    forbidden = decide(offered, asking, request, places, NOW).state == "refused"

    def grant() -> AccessRequest:
        return domain.answer(offered, asking, request, places, granted=True, reason="yes", steward="dora", now=NOW)

    if forbidden:
        with pytest.raises(GrantForbidden):
            grant()
    elif offered.sensitivity != "personal":
        assert grant().state == "granted"


def test_a_steward_cannot_grant_personal_data_to_an_unknown_place_but_may_refuse_them() -> None:
    with pytest.raises(GrantForbidden) as refused:
        domain.answer(personal(), project(), wish(), [], granted=True, reason="yes", steward="dora", now=NOW)
    assert "residency" in refused.value.rules
    after = domain.answer(personal(), project(), wish(), [], granted=False, reason="no", steward="dora", now=NOW)
    assert (after.state, after.decided_by, after.reasons()[-1]) == ("refused", "steward", "steward: no")


def test_a_decision_is_made_once() -> None:
    done = wish(state="granted")
    with pytest.raises(AlreadyDecided):
        domain.answer(dataset(), project(), done, [], granted=False, reason="no", steward="dora", now=NOW)


def test_a_grant_ends_with_the_last_allocation_in_an_allowed_country() -> None:
    places = [place("FI", NEXT_YEAR), place("ES", YEAR_AFTER, name="mn5")]
    assert domain.grant_end(personal(), places) == NEXT_YEAR
    assert domain.grant_end(dataset(), places) == YEAR_AFTER
    assert domain.grant_end(dataset(), []) is None


def test_a_grant_is_in_force_until_it_ends() -> None:
    granted = wish(state="granted", expires_at=NEXT_YEAR)
    assert granted.in_force(NEXT_YEAR - timedelta(seconds=1))
    assert not granted.in_force(NEXT_YEAR)
    assert not wish().in_force(NOW)


def test_a_second_request_is_refused_while_the_first_is_open_and_names_it() -> None:
    with pytest.raises(RequestOpen) as refused:
        check_not_asked_twice([wish(id="req-0")], wish(state="granted"), NOW)
    assert refused.value.request_id == "req-0"


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        (NEXT_YEAR, NEXT_YEAR, False),
        (NEXT_YEAR, YEAR_AFTER, True),
        (NEXT_YEAR, None, True),
        (None, NEXT_YEAR, False),
        (NOW, NEXT_YEAR, True),
    ],
)
def test_a_granted_dataset_may_be_asked_for_again_only_for_longer(
    before: datetime | None, after: datetime | None, allowed: bool
) -> None:
    earlier = wish(state="granted", expires_at=before)
    later = wish(state="granted", expires_at=after)
    if allowed:
        check_not_asked_twice([earlier], later, NOW)
    else:
        with pytest.raises(AlreadyGranted):
            check_not_asked_twice([earlier], later, NOW)


def test_after_a_refusal_one_may_ask_again() -> None:
    check_not_asked_twice([wish(state="refused")], wish(), NOW)


@pytest.mark.parametrize(
    "location",
    [
        "s3://lumi-o/finnish-speech/",
        "https://data.example.eu/sets/7?version=2&format=parquet",
        "urn:nbn:fi:lb-20260101",
        "doi:10.5281/zenodo.1234",
        "swift://container/path",
    ],
)
def test_plain_references_are_accepted(location: str) -> None:
    check_location(location)


@pytest.mark.parametrize(
    "location",
    [
        "https://bob:secret@example.eu/x",
        "https://token@example.eu/x",
        "https://@example.eu/x",
        "s3://KEY:SECRET@bucket/x",
        "https://b.s3.example.eu/x?X-Amz-Credential=a&X-Amz-Signature=b",
        "https://acc.blob.example.eu/x?sp=r&sig=abc",
        "https://example.eu/x?ACCESS_TOKEN=abc",
        "https://example.eu/x#access_token=abc",
        "file:///etc/passwd",
        "http://example.eu/x",
        "javascript:alert(1)",
        "/scratch/project/x",
        "https:///x",
        "s3://",
        "urn:",
        "https://example.eu/a b",
        "https://example.eu\\@evil.example/",
        "https://[::1/x",
        "https://example.eu/\x00",
        "",
    ],
)
def test_a_location_that_opens_a_door_or_leads_nowhere_is_refused(location: str) -> None:
    with pytest.raises(LocationRefused):
        check_location(location)


@given(st.text(max_size=60))
def test_any_text_is_either_a_plain_reference_or_refused(location: str) -> None:
    try:
        check_location(location)
    except LocationRefused:
        return
    assert location.split(":")[0].lower() in domain.SCHEMES


@given(
    st.sampled_from(["https", "s3"]),
    st.text("abcXYZ0", min_size=1, max_size=8),
    st.text("abc$-_.", max_size=8),
)
def test_a_user_name_before_the_host_is_always_found(scheme: str, user: str, password: str) -> None:
    with pytest.raises(LocationRefused):
        check_location(f"{scheme}://{user}:{password}@example.eu/x")


@pytest.mark.parametrize(
    "words",
    [
        {"legal_basis": None},
        {"residency": ()},
        {"sensitivity": "confidential", "grade": "open"},
        {"sensitivity": "internal", "grade": "open"},
    ],
)
def test_a_description_that_lacks_something_or_contradicts_itself_is_refused(words: dict[str, Any]) -> None:
    with pytest.raises(DescriptionIncomplete):
        check_description(personal(**words))


def test_a_retired_dataset_changes_no_more() -> None:
    gone = domain.retire(dataset(), NOW)
    assert (gone.retired, gone.revision) == (True, 1)
    with pytest.raises(DatasetRetired):
        domain.retire(gone, NOW)
    with pytest.raises(DatasetRetired):
        domain.revise(gone, dataset(title="New"))


def test_a_revision_keeps_name_and_owner() -> None:
    after = domain.revise(dataset(revision=4), dataset("other", factory_id="bsc-aif", title="New"))
    assert (after.id, after.factory_id, after.title, after.revision) == ("speech", "lumi-aif", "New", 5)
