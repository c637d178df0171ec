"""Handing a job over: one final state on both sides, whatever is lost, doubled, late or decided at once."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from aifn_scheduler.domain.handover import (
    FINAL,
    Handover,
    MoreThanHeld,
    WrongStep,
    answer,
    conclude,
    finish,
    hear,
    settled,
    start,
    sweep,
)
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

NOW = datetime(2026, 11, 21, 9, tzinfo=UTC)
HELD = 1_000
ASKED = Handover("lumi-aif-1", HELD, answer_by=NOW + timedelta(hours=1), end_by=NOW + timedelta(hours=9))
CONFIRMED = conclude(answer(ASKED, accept=True), NOW)


def test_a_job_goes_through_both_phases_and_the_rest_is_released() -> None:
    done = finish(start(CONFIRMED), 300)
    assert (done.state, done.used, done.released) == ("finished", 300, 700)
    assert settled([done, ASKED]) == (300, 700)


def test_nothing_starts_before_home_has_confirmed() -> None:
    with pytest.raises(WrongStep):
        start(answer(ASKED, accept=True))
    with pytest.raises(WrongStep):
        finish(answer(ASKED, accept=True), 0)


def test_a_request_nobody_answers_expires_and_releases_everything() -> None:
    assert conclude(ASKED, ASKED.answer_by) == ASKED
    late = conclude(ASKED, ASKED.answer_by + timedelta(seconds=1))
    assert (late.state, late.released) == ("expired", HELD)


def test_a_refusal_is_the_end_even_if_home_cancels_in_the_same_moment() -> None:
    refused = conclude(answer(ASKED, accept=False), NOW, cancel=True)
    assert (refused.state, refused.released) == ("rejected", HELD)


def test_a_cancelled_request_that_was_accepted_meanwhile_never_starts() -> None:
    cancelled = conclude(ASKED, NOW, cancel=True)
    at_receiver = hear(answer(ASKED, accept=True), cancelled, "receiver")
    assert at_receiver.state == "cancelled"
    with pytest.raises(WrongStep):
        start(at_receiver)
    assert hear(cancelled, at_receiver, "home").state == "cancelled"


def test_a_receiver_answers_once_and_never_after_the_end() -> None:
    with pytest.raises(WrongStep):
        answer(answer(ASKED, accept=True), accept=False)
    with pytest.raises(WrongStep):
        answer(hear(ASKED, conclude(ASKED, NOW, cancel=True), "receiver"), accept=True)


@pytest.mark.parametrize("used", [-1, HELD + 1])
def test_no_more_is_charged_than_was_held(used: int) -> None:
    with pytest.raises(MoreThanHeld):
        finish(start(CONFIRMED), used)


def test_what_never_started_was_never_used() -> None:
    with pytest.raises(WrongStep):
        finish(CONFIRMED, 1)
    assert finish(CONFIRMED, 0).released == HELD


def test_the_receiver_ends_what_is_overdue_with_what_it_has_counted() -> None:
    running, late = start(CONFIRMED), ASKED.end_by + timedelta(seconds=1)
    assert sweep(running, ASKED.end_by, counted=5) == running
    assert sweep(running, late, counted=400).used == 400
    assert sweep(running, late, counted=HELD * 2).used == HELD
    assert sweep(CONFIRMED, late, counted=400).used == 0
    assert sweep(ASKED, late, counted=400) == ASKED


@given(st.permutations(range(4)), st.lists(st.integers(0, 3), max_size=8))
def test_news_in_any_order_and_with_copies_leads_to_the_newest_word(order: list[int], again: list[int]) -> None:
    told = [CONFIRMED, start(CONFIRMED), finish(start(CONFIRMED), 7), answer(ASKED, accept=True)]
    heard = conclude(hear(ASKED, told[3], "home"), NOW)
    for number in (*order, *again):
        heard = hear(heard, told[number], "home")
    assert (heard.state, heard.used) == ("finished", 7)


class TwoSides(RuleBasedStateMachine):
    """Home and receiver act on what each knows; letters between them wait, come twice, or are lost and sent again."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.home = ASKED
        self.receiver: Handover | None = None
        self.to_home: list[Handover] = []
        self.to_receiver: list[Handover] = [ASKED]
        self.ends: list[set[str]] = [set(), set()]
        self.ran = False

    @rule(number=st.integers(0, 100), lost=st.booleans())
    @precondition(lambda self: self.to_receiver)
    def receiver_reads(self, number: int, lost: bool) -> None:
        letter = self.to_receiver[number % len(self.to_receiver)]
        if not lost:
            before = self.receiver or replace(letter, home=("requested",), reason=None)
            self.receiver = hear(before, letter, "receiver")

    @rule(number=st.integers(0, 100), lost=st.booleans())
    @precondition(lambda self: self.to_home)
    def home_reads(self, number: int, lost: bool) -> None:
        if not lost:
            self.home = hear(self.home, self.to_home[number % len(self.to_home)], "home")

    @rule(accept=st.booleans())
    @precondition(lambda self: self.receiver and not self.receiver.receiver and len(self.receiver.home) == 1)
    def receiver_answers(self, accept: bool) -> None:
        assert self.receiver is not None
        self._receiver_says(answer(self.receiver, accept=accept))

    @rule(cancel=st.booleans())
    def home_concludes(self, cancel: bool) -> None:
        after = conclude(self.home, self.now, cancel=cancel)
        if after != self.home:
            self.home = after
            self.to_receiver.append(after)

    @rule()
    @precondition(lambda self: self.receiver and self.receiver.state == "confirmed")
    def receiver_starts(self) -> None:
        assert self.receiver is not None
        self.ran = True
        self._receiver_says(start(self.receiver))

    @rule(used=st.integers(0, HELD))
    @precondition(lambda self: self.receiver and self.receiver.state == "started")
    def receiver_finishes(self, used: int) -> None:
        assert self.receiver is not None
        self._receiver_says(finish(self.receiver, used))

    @rule(minutes=st.integers(1, 300))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(counted=st.integers(0, HELD * 2))
    @precondition(lambda self: self.receiver)
    def receiver_sweeps(self, counted: int) -> None:
        assert self.receiver is not None
        after = sweep(self.receiver, self.now, counted=counted)
        if after != self.receiver:
            self._receiver_says(after)

    def _receiver_says(self, after: Handover) -> None:
        self.receiver = after
        self.to_home.append(after)

    @invariant()
    def a_final_state_is_never_left_and_is_the_same_on_both_sides(self) -> None:
        for ends, one in zip(self.ends, (self.home, self.receiver), strict=True):
            if one is not None and one.state in FINAL:
                ends.add(one.state)
            assert len(ends) <= 1
            assert not (ends and one and one.state not in ends)
        assert len(self.ends[0] | self.ends[1]) <= 1

    @invariant()
    def a_job_that_ran_is_never_voided(self) -> None:
        assert not self.ran or self.home.reason is None

    def teardown(self) -> None:
        """The way is mended: all letters arrive, both clocks pass the deadlines, and one end is reached by both."""
        self.now += timedelta(days=30)
        for _ in range(4):
            for letter in list(self.to_receiver):
                before = self.receiver or replace(letter, home=("requested",), reason=None)
                self.receiver = hear(before, letter, "receiver")
            assert self.receiver is not None
            swept = sweep(self.receiver, self.now, counted=HELD)
            if swept != self.receiver:
                self._receiver_says(swept)
            for letter in self.to_home:
                self.home = hear(self.home, letter, "home")
            self.home_concludes(cancel=False)
        assert self.receiver is not None
        assert self.home.state == self.receiver.state
        assert self.home.state in FINAL
        charged, released = settled([self.home])
        assert charged + released == HELD
        assert settled([self.receiver]) == (charged, released)


TestTwoSides = TwoSides.TestCase
