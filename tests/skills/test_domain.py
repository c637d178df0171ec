"""Seats, prerequisites and advice: the rules alone."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from aifn_skills import domain, seed
from aifn_skills.domain import (
    Award,
    Line,
    PrerequisiteWrong,
    SeatTaken,
    SeatUnknown,
    SessionPast,
    SessionTimesWrong,
    SoldOut,
    advise,
    book,
    check_prerequisites,
    check_times,
    give_up,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.skills.make import LATER, NEWCOMER, NOW, PORTING, award, course, session

VENDORS: dict[str, dict[str, str | None]] = {
    "lumi": {"lumi-g": "AMD", "lumi-c": None},
    "leonardo": {"booster": "NVIDIA"},
}
LINES = st.sampled_from(
    [Line("lumi", "lumi-g"), Line("lumi", "lumi-c"), Line("leonardo", "booster"), Line("unknown", "gpu")]
)
AWARDS = st.lists(
    st.builds(
        lambda number, lines, mode: award(f"award-{number}", *lines, mode=mode, minute=number),
        st.integers(0, 9),
        st.lists(LINES, min_size=1, max_size=3, unique=True),
        st.sampled_from(["aif_playground", "aif_fast_lane"]),
    ),
    max_size=5,
    unique_by=lambda one: one.id,
)
RULES = [PORTING, NEWCOMER]


def said(awards: Sequence[Award], given: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    return [(advice.rule.id, advice.award.id) for advice in advise(RULES, awards, VENDORS, given=given)]


def test_the_first_award_on_amd_gpus_leads_to_the_porting_course() -> None:
    assert said([award(mode="aif_fast_lane")]) == [("first-amd-project", "award-1")]


def test_a_playground_award_leads_to_first_steps() -> None:
    assert said([award("award-1", Line("leonardo", "booster"))]) == [("playground-newcomer", "award-1")]


def test_processors_of_a_machine_with_amd_gpus_elsewhere_lead_to_no_porting_course() -> None:
    assert said([award("award-1", Line("lumi", "lumi-c"), mode="aif_fast_lane")]) == []


def test_an_award_on_an_unknown_machine_waits() -> None:
    assert said([award("award-1", Line("unknown", "gpu"), mode="aif_fast_lane")]) == []


def test_makers_are_compared_without_regard_to_capitals() -> None:
    assert domain.holds(PORTING, award(), {"lumi": {"lumi-g": "amd"}})


def test_the_earliest_award_is_the_cause_whatever_the_order_of_hearing() -> None:
    early, late = award("award-2", minute=1), award("award-1", minute=2)
    assert dict(said([late, early]))["first-amd-project"] == "award-2"


@given(AWARDS, st.randoms())
def test_advice_does_not_depend_on_the_order_of_awards(awards: list[Award], chance: object) -> None:
    shuffled = list(awards)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert said(shuffled) == said(awards)


@given(AWARDS)
def test_a_rule_speaks_once_and_never_again_to_the_same_project(awards: list[Award]) -> None:
    first = said(awards)
    assert len({rule for rule, _ in first}) == len(first)
    assert said(awards, frozenset(rule for rule, _ in first)) == []


@given(AWARDS)
def test_the_cause_is_an_award_for_which_the_rule_holds_and_no_earlier_one_does(awards: list[Award]) -> None:
    rules = {rule.id: rule for rule in RULES}
    for advice in advise(RULES, awards, VENDORS, given=frozenset()):
        assert domain.holds(rules[advice.rule.id], advice.award, VENDORS)
        earlier = [one for one in awards if one.granted_at < advice.award.granted_at]
        assert not any(domain.holds(advice.rule, one, VENDORS) for one in earlier)


@given(AWARDS)
def test_what_becomes_known_only_adds_advice(awards: list[Award]) -> None:
    before = {rule for rule, _ in said(awards)}
    known = VENDORS | {"unknown": {"gpu": "AMD"}}
    after = {advice.rule.id for advice in advise(RULES, awards, known, given=frozenset())}
    assert before <= after


@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=40))
def test_seats_taken_are_the_people_who_sit_and_never_more_than_the_seats(
    seats: int, steps: list[tuple[bool, int]]
) -> None:
    now, sitting = session(seats=seats), set()
    for comes, person in steps:
        try:
            if comes:
                now = book(now, has_seat=person in sitting, now=NOW)
                sitting.add(person)
            else:
                now = give_up(now, has_seat=person in sitting, now=NOW)
                sitting.discard(person)
        except SoldOut:
            assert len(sitting) == seats
        except SeatTaken:
            assert person in sitting
        except SeatUnknown:
            assert person not in sitting
        assert now.taken == len(sitting) <= seats
        assert now.free == seats - len(sitting)


def test_seats_of_a_session_that_has_begun_change_no_more() -> None:
    for act in (book, give_up):
        with pytest.raises(SessionPast):
            act(session(taken=1), has_seat=act is give_up, now=LATER)


def test_a_session_begins_in_the_future_and_ends_after_it_has_begun() -> None:
    check_times(session(), NOW)
    with pytest.raises(SessionTimesWrong):
        check_times(session(starts_at=NOW), NOW)
    with pytest.raises(SessionTimesWrong):
        check_times(session(ends_at=LATER), NOW)


def test_prerequisites_exist_and_lead_upwards() -> None:
    check_prerequisites(course(prerequisites=("basics",)), {"basics": "entry"})
    for words, catalogue in (
        (course(prerequisites=("porting",)), {"porting": "hpc_familiar"}),
        (course(prerequisites=("nothing",)), {}),
        (course(prerequisites=("kernels",)), {"kernels": "expert"}),
    ):
        with pytest.raises(PrerequisiteWrong):
            check_prerequisites(words, catalogue)  # type: ignore[arg-type]


def test_the_starter_catalogue_keeps_the_rules_of_the_catalogue() -> None:
    levels = {one.id: one.level for one in seed.courses()}
    for one in seed.courses():
        check_prerequisites(one, levels)
        assert one.example
    assert {rule.course_id for rule in seed.rules()} <= levels.keys()


def test_a_factory_plans_its_own_sessions_only_from_the_first_day_on() -> None:
    planned = {one.id: one for one in seed.sessions("lumi-aif", NOW)}
    assert planned.keys() >= {"rocm-porting-1", "slurm-first-steps-1"}
    assert "multi-gpu-training-1" not in planned
    first = planned["slurm-first-steps-1"]
    assert first.starts_at == (NOW + timedelta(days=3)).replace(hour=8)
    assert first.ends_at - first.starts_at == timedelta(hours=3)
    assert seed.sessions("nobody", NOW) == []
