"""The life of a job: whatever the order and however often the news comes, there is one final state."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from aifn_common.errors import Refusal
from aifn_scheduler.domain import lifecycle
from aifn_scheduler.domain.lifecycle import AlreadyClosed, Life, NotDispatched, WrongSite
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.scheduler.make import NOW

LATER = NOW + timedelta(hours=1)


def queued() -> Life:
    return Life("j", "queued")


def placed(**values: Any) -> Life:
    return Life("j", "placed", machine_id="lumi", partition_id="lumi-g", placed_at=NOW, **values)


def sent() -> Life:
    return lifecycle.dispatch(placed(), 0, NOW, NOW)


def end(life: Life, outcome: lifecycle.Outcome = "completed", segments: int = 1) -> Life:
    return lifecycle.end(life, "lumi", "lumi-g", outcome, segments, LATER, "", LATER)


def start(life: Life, segment: int = 0) -> Life:
    return lifecycle.start(life, "lumi", "lumi-g", segment, NOW)


def test_a_held_budget_sends_the_job_to_its_site_once() -> None:
    life = sent()
    assert (life.state, life.held_at, life.dispatched_at) == ("dispatched", NOW, NOW)
    assert lifecycle.dispatch(life, 0, LATER, LATER) == life


def test_news_of_an_earlier_placement_changes_nothing() -> None:
    life = placed(revision=2)
    assert lifecycle.dispatch(life, 1, NOW, NOW) == life
    assert lifecycle.refuse(life, 1, "no", NOW) == life


def test_the_end_may_be_told_before_the_start() -> None:
    over = end(sent())
    assert (over.state, over.outcome, over.started_at) == ("closed", "completed", None)
    known = start(over)
    assert (known.state, known.outcome, known.started_at) == ("closed", "completed", NOW)


def test_the_start_of_a_job_is_that_of_its_first_run() -> None:
    again = lifecycle.start(start(sent()), "lumi", "lumi-g", 1, LATER)
    assert (again.started_at, again.last_started_at, again.runs) == (NOW, LATER, 2)
    late = start(lifecycle.start(sent(), "lumi", "lumi-g", 1, LATER))
    assert (late.started_at, late.last_started_at) == (NOW, LATER)


def test_a_second_and_different_end_is_refused_and_the_same_is_harmless() -> None:
    over = end(sent())
    assert end(over) == over
    with pytest.raises(AlreadyClosed):
        end(over, "failed")
    with pytest.raises(AlreadyClosed):
        end(over, segments=2)


@pytest.mark.parametrize("life", [queued(), placed(), lifecycle.cancel(queued(), "why", NOW)])
def test_a_site_cannot_speak_of_a_job_that_was_not_sent(life: Life) -> None:
    with pytest.raises(NotDispatched):
        start(life)
    with pytest.raises(NotDispatched):
        end(life)


def test_a_site_cannot_speak_of_anothers_job() -> None:
    with pytest.raises(WrongSite):
        lifecycle.end(sent(), "leonardo", "leonardo-booster", "failed", 0, LATER, "", LATER)


def test_a_waiting_job_is_cancelled_at_once_and_a_sent_one_when_its_site_says_so() -> None:
    assert lifecycle.cancel(queued(), "why", NOW).outcome == "cancelled"
    asked = lifecycle.cancel(sent(), "why", NOW)
    assert (asked.state, asked.cancel_asked_at) == ("dispatched", NOW)
    assert (end(asked, "cancelled").outcome, end(asked, "cancelled").reason) == ("cancelled", "why")
    assert end(asked, "completed").outcome == "completed"


@pytest.mark.parametrize("answer", ["held", "refused"])
def test_a_job_cancelled_while_it_waits_for_its_budget_closes_with_the_answer(answer: str) -> None:
    asked = lifecycle.cancel(placed(), "why", NOW)
    assert asked.state == "placed"
    over = lifecycle.dispatch(asked, 0, NOW, LATER) if answer == "held" else lifecycle.refuse(asked, 0, "no", LATER)
    assert (over.outcome, over.dispatched_at, over.segments) == ("cancelled", None, 0)


def test_a_finished_job_cannot_be_cancelled_and_a_cancelled_one_stays_so() -> None:
    with pytest.raises(AlreadyClosed):
        lifecycle.cancel(end(sent()), "why", NOW)
    cancelled = lifecycle.cancel(queued(), "why", NOW)
    assert lifecycle.cancel(cancelled, "again", LATER) == cancelled


class AnyOrder(RuleBasedStateMachine):
    """News in any order, any number of times; refusals change nothing."""

    @initialize()
    def submit(self) -> None:
        self.life = queued()
        self.final: Life | None = None
        self.closings = 0

    def _become(self, after: Life) -> None:
        if self.life.state != "closed" and after.state == "closed":
            self.closings += 1
            self.final = after
        self.life = after

    @precondition(lambda self: self.life.state == "queued")
    @rule()
    def place(self) -> None:
        asked = self.life.cancel_asked_at
        self.life = placed(cancel_asked_at=asked)

    @rule(revision=st.integers(0, 1))
    def hold(self, revision: int) -> None:
        self._become(lifecycle.dispatch(self.life, revision, NOW, NOW))

    @rule(revision=st.integers(0, 1))
    def refuse(self, revision: int) -> None:
        self._become(lifecycle.refuse(self.life, revision, "no", NOW))

    @rule()
    def cancel(self) -> None:
        with suppress(Refusal):
            self._become(lifecycle.cancel(self.life, "why", NOW))

    @rule()
    def expire(self) -> None:
        self._become(lifecycle.expire(self.life, "over", NOW))

    @rule(segment=st.integers(0, 2))
    def start(self, segment: int) -> None:
        with suppress(Refusal):
            self._become(start(self.life, segment))

    @rule(
        outcome=st.sampled_from(["completed", "failed", "timeout", "cancelled", "refused"]), segments=st.integers(0, 2)
    )
    def end(self, outcome: lifecycle.Outcome, segments: int) -> None:
        with suppress(Refusal):
            self._become(end(self.life, outcome, segments))

    @invariant()
    def a_final_state_is_reached_once_and_kept(self) -> None:
        assert self.closings == (self.life.state == "closed")
        assert (self.life.outcome is not None) == (self.life.state == "closed")
        if self.final is not None:
            kept = (self.life.outcome, self.life.segments, self.life.closed_at, self.life.reason)
            assert kept == (self.final.outcome, self.final.segments, self.final.closed_at, self.final.reason)

    @invariant()
    def nothing_runs_that_was_not_sent(self) -> None:
        if self.life.started_at is not None or self.life.state == "running":
            assert self.life.dispatched_at is not None


AnyOrder.TestCase.settings = settings(max_examples=300, stateful_step_count=15)
TestAnyOrder = AnyOrder.TestCase
