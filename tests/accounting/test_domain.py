"""The rules of the ledger, of usage and of hours, without a database."""

from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from aifn_accounting.domain.ledger import (
    LARGEST_AMOUNT,
    AbsurdAmount,
    Allocation,
    AllocationExceeded,
    AllocationNotActive,
    Balance,
    Book,
    Hold,
    UnknownAllocation,
    choose_to_charge,
    choose_to_hold,
    may_release,
)
from aifn_accounting.domain.units import gpu_hours, node_hours
from aifn_accounting.domain.usage import (
    ConflictingUsage,
    EndsBeforeStart,
    FromTheFuture,
    Intake,
    NoRate,
    RateCard,
    Rates,
    Size,
    WrongResource,
    check,
    identity_of,
)
from aifn_events.usage import UsageReported
from hypothesis import given
from hypothesis import strategies as st

from tests.accounting.make import CPU, GPU, START, hours, used

DAY = timedelta(days=1)
AMOUNTS = st.integers(0, 1000)


def allocation(number: int = 1, *, starts: timedelta = -DAY, ends: timedelta = DAY) -> Allocation:
    return Allocation(number, f"alloc-{number}", "p1", GPU, START + starts, START + ends, {}, Balance(100))


def sums(book: Book) -> Counter[str]:
    """Balances of accounts as the entries alone tell them."""
    found: Counter[str] = Counter()
    for entry in book.entries:
        found[entry.source] -= entry.amount
        found[entry.target] += entry.amount
    return found


# Book

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), AMOUNTS, st.integers(0, 3)),
        st.tuples(st.just("hold"), AMOUNTS, st.integers(0, 3)),
        st.tuples(st.just("release"), AMOUNTS, st.integers(0, 3)),
        st.tuples(st.just("charge"), AMOUNTS, st.integers(0, 3)),
        st.tuples(st.just("correct"), AMOUNTS, st.integers(0, 3)),
        st.tuples(st.just("settle"), AMOUNTS, st.integers(0, 3)),
    ),
    max_size=25,
)


@given(STEPS)
def test_whatever_happens_the_entries_add_up_to_the_balances(steps: list[tuple[str, int, int]]) -> None:
    book = Book({1: Balance()})
    holds: dict[int, Hold] = {}
    charges: Counter[int] = Counter()
    granted = 0
    for what, amount, job in steps:
        if what == "grant":
            book.grant(1, amount, "union")
            granted += amount
        elif what == "hold" and job not in holds:
            hold = Hold(f"j{job}", 1, amount, charges[job])
            if hold.remaining <= book.left(1):
                book.hold(allocation(), hold)
                holds[job] = hold
            else:
                with pytest.raises(AllocationExceeded):
                    book.hold(allocation(), hold)
        elif what == "release" and job in holds and not holds[job].released:
            book.release(holds[job])
        elif what in ("charge", "correct"):
            change = amount if what == "charge" else -min(amount, charges[job])
            charges[job] += change
            book.charge(1, change, holds.get(job), f"j{job}", 7)
        elif what == "settle":
            book.settle()
    # Anything to make sure that the book knows of the allocation.
    book.grant(1, 1, "national")
    end = book.settle()[1]

    assert end.granted == granted + 1
    assert end.charged == sum(charges.values())
    assert end.held == sum(hold.remaining for hold in holds.values())
    assert end.granted == end.available + end.held + end.charged - end.overrun
    assert end.available == 0 or end.overrun == 0
    found = sums(book)
    assert found["union_pool"] + found["national_pool"] == -end.granted
    assert (found["held"], found["consumed"]) == (end.held, end.charged)
    assert sum(found.values()) == 0
    assert all(entry.amount > 0 for entry in book.entries)


@given(granted=AMOUNTS, steps=st.lists(st.integers(0, 300), max_size=8))
def test_settling_after_every_step_or_once_at_the_end_leads_to_the_same_balances(
    granted: int, steps: list[int]
) -> None:
    once = Book({1: Balance(granted)})
    now = Balance(granted)
    for number, amount in enumerate(steps):
        often = Book({1: now})
        often.charge(1, amount, None, "j", number)
        now = often.settle().get(1, now)
        once.charge(1, amount, None, "j", number)
    assert once.settle().get(1, Balance(granted)) == now


def test_a_charge_takes_from_the_hold_then_from_the_rest_then_overruns() -> None:
    book = Book({1: Balance(granted=100)})
    hold = Hold("j", 1, 60)
    book.hold(allocation(), hold)
    book.charge(1, 130, hold, "j", 1)
    assert book.settle()[1] == Balance(granted=100, held=0, charged=130)
    assert [(e.kind, e.source, e.target, e.amount) for e in book.entries] == [
        ("hold", "available", "held", 60),
        ("charge", "held", "consumed", 60),
        ("charge", "available", "consumed", 70),
        ("overrun", "overrun", "available", 30),
    ]


def test_what_comes_back_pays_the_overrun_first() -> None:
    book = Book({1: Balance(granted=100, charged=130)})
    book.grant(1, 50, "union")
    after = book.settle()[1]
    assert (after.available, after.overrun) == (20, 0)
    assert ("settle", "available", "overrun", 30) in [(e.kind, e.source, e.target, e.amount) for e in book.entries]


def test_a_refund_refills_a_hold_that_is_still_open_and_no_other() -> None:
    for released, expected in ((False, Balance(100, 40, 20)), (True, Balance(100, 0, 20))):
        hold = Hold("j", 1, 60, drawn=60, released=released)
        book = Book({1: Balance(granted=100, charged=60)})
        book.charge(1, -40, hold, "j", 1)
        assert book.settle()[1] == expected


def test_a_book_that_would_give_back_more_than_was_charged_is_a_fault() -> None:
    book = Book({1: Balance(granted=100, charged=10)})
    book.charge(1, -11, None, "j", 1)
    with pytest.raises(ValueError, match="allocation 1"):
        book.settle()


def test_a_grant_beyond_all_measure_is_refused() -> None:
    with pytest.raises(AbsurdAmount):
        Book({1: Balance()}).grant(1, LARGEST_AMOUNT + 1, "union")


# Choosing an allocation


def test_of_allocations_with_enough_left_the_first_to_end_is_held() -> None:
    some = [allocation(1, ends=3 * DAY), allocation(2, ends=2 * DAY), allocation(3, ends=1 * DAY)]
    left = {1: 100, 2: 100, 3: 5}
    assert choose_to_hold(some, "p1", GPU, amount=50, at=START, left=left.__getitem__).number == 2


def test_a_hold_is_refused_for_the_reason_that_applies() -> None:
    def ask(some: list[Allocation], at: datetime) -> Allocation:
        return choose_to_hold(some, "p1", GPU, amount=50, at=at, left=lambda _: 49)

    with pytest.raises(UnknownAllocation):
        ask([], START)
    for moment in (START - 2 * DAY, START + DAY):  # the end does not belong to it
        with pytest.raises(AllocationNotActive):
            ask([allocation()], moment)
    with pytest.raises(AllocationExceeded) as refused:
        ask([allocation()], START)
    assert refused.value.details == {"asked": 50, "available": 49}


@given(st.permutations([1, 2, 3, 4]))
def test_usage_is_charged_to_the_active_allocation_or_else_the_nearest_whatever_the_order(order: list[int]) -> None:
    known = {
        1: allocation(1, starts=-3 * DAY, ends=-2 * DAY),
        2: allocation(2, starts=-DAY, ends=DAY),
        3: allocation(3, starts=-DAY, ends=DAY),
        4: allocation(4, starts=3 * DAY, ends=4 * DAY),
    }
    some = [known[number] for number in order]
    assert choose_to_charge(some, START).number == 2
    assert choose_to_charge(some, START - 9 * DAY).number == 1
    assert choose_to_charge(some, START + 2.5 * DAY).number == 4
    assert choose_to_charge(some, START + 99 * DAY).number == 4


def test_a_hold_goes_back_once_all_segments_are_charged() -> None:
    assert not may_release(Hold("j", 1, 60), 5)
    assert not may_release(Hold("j", 1, 60, expected=2), 1)
    assert may_release(Hold("j", 1, 60, expected=2), 2)
    assert may_release(Hold("j", 1, 60, expected=0), 0)
    assert not may_release(Hold("j", 1, 60, expected=0, released=True), 0)


# Usage records

SIZES = {GPU: Size(units_per_node=64, nodes=2978)}


def test_a_plausible_record_is_taken() -> None:
    check(used(amount=64 * 3600), SIZES, START + hours(1))


def test_a_record_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(EndsBeforeStart):
        check(used(ended_at=START - timedelta(seconds=1)), SIZES, START + hours(1))


def test_a_clock_may_be_a_day_ahead_and_not_more() -> None:
    check(used(), SIZES, START + hours(1) - DAY)
    with pytest.raises(FromTheFuture):
        check(used(), SIZES, START + hours(1) - DAY - timedelta(seconds=1))


@pytest.mark.parametrize("resource", [CPU, "leonardo/lumi-g/gpu-time", "lumi/lumi-g2/gpu-time"])
def test_a_resource_of_another_partition_is_refused(resource: str) -> None:
    with pytest.raises(WrongResource):
        check(used(amount={resource: 1}), SIZES, START + hours(1))


def test_no_node_gives_more_than_all_its_slices_for_all_the_time() -> None:
    two_seconds = 2 * 64  # what sites may round differently
    check(used(amount=64 * 3600 + two_seconds), SIZES, START + hours(1))
    with pytest.raises(AbsurdAmount):
        check(used(amount=64 * 3600 + two_seconds + 1), SIZES, START + hours(1))
    with pytest.raises(AbsurdAmount):
        check(used(amount=1, nodes=0), SIZES, START + hours(1))


def test_no_job_runs_on_more_nodes_than_the_passport_says() -> None:
    check(used(nodes=2978), SIZES, START + hours(1))
    with pytest.raises(AbsurdAmount) as refused:
        check(used(nodes=2979), SIZES, START + hours(1))
    assert refused.value.details == {"amount": 2979, "limit": 2978}


def test_any_number_of_nodes_may_be_where_the_passport_says_none() -> None:
    amount = 2979 * 64 * 3600
    check(used(amount=amount, nodes=2979), {GPU: Size(64, None)}, START + hours(1))
    with pytest.raises(AbsurdAmount):
        check(used(amount=2 * amount, nodes=2979), {GPU: Size(64, None)}, START + hours(1))


def test_without_a_passport_only_the_impossible_is_refused() -> None:
    check(used(amount=LARGEST_AMOUNT), {}, START + hours(1))
    with pytest.raises(AbsurdAmount):
        check(used(amount=LARGEST_AMOUNT + 1), {}, START + hours(1))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.sets(st.integers(0, 4)))
def test_of_all_revisions_the_highest_counts_and_replaces_the_highest_stored(
    batch: list[int], stored: set[int]
) -> None:
    record = used()
    known = {identity_of(record): {revision: 100 + revision for revision in stored}} if stored else {}
    intake: Intake[UsageReported] = Intake(known, 1000)
    for revision in batch:
        intake.take(identity_of(record), used(revision=revision))
    new = set(batch) - stored
    assert sorted(one.revision for one in intake.new.values()) == sorted(new)
    assert [one.revision for one, _ in intake.repeated] == [revision for revision in batch if revision in stored]
    highest = max(stored, default=-1)
    if new and max(new) > highest:
        [(number, before)] = intake.effective()
        assert intake.new[number].revision == max(new)
        assert before == (100 + highest if stored else None)
    else:
        assert intake.effective() == []


def test_two_different_records_in_one_place_cannot_both_be_true() -> None:
    intake: Intake[UsageReported] = Intake({}, 0)
    assert intake.take(identity_of(used()), used(amount=1)) == 1
    assert intake.take(identity_of(used()), used(amount=1)) is None
    with pytest.raises(ConflictingUsage):
        intake.take(identity_of(used()), used(amount=2))


# Rates


@given(amount=st.integers(0, LARGEST_AMOUNT), numerator=st.integers(0, 10**6), denominator=st.integers(1, 10**6))
def test_a_rate_never_charges_less_than_it_says_nor_a_whole_unit_more(
    amount: int, numerator: int, denominator: int
) -> None:
    card = RateCard("c", "*", numerator, denominator, START, None)
    exact = Fraction(amount * numerator, denominator)
    assert exact <= card.rate(amount) < exact + 1


def test_the_card_in_force_is_a_resource_s_own_before_the_general_one() -> None:
    general = RateCard("general", "*", 1, 1, START - 9 * DAY, None)
    own = RateCard("own", GPU, 2, 1, START, START + DAY)
    rates = Rates([general, own])
    assert rates.card(GPU, START).id == "own"
    assert rates.card(GPU, START + DAY).id == "general"
    assert rates.card(GPU, START - DAY).id == "general"
    assert rates.card(CPU, START).id == "general"
    with pytest.raises(NoRate):
        rates.card(GPU, START - 10 * DAY)


# Hours


def test_an_eighth_of_a_lumi_g_node_is_half_a_gpu_hour() -> None:
    assert gpu_hours(8 * 3600, units_per_node=64, gpus_per_node=4) == Decimal("0.5")
    assert node_hours(8 * 3600, units_per_node=64) == Decimal("0.125")


@given(st.integers(0, LARGEST_AMOUNT))
def test_hours_differ_from_the_truth_by_less_than_what_is_shown(amount: int) -> None:
    shown = Fraction(node_hours(amount, units_per_node=64))
    assert abs(shown - Fraction(amount, 64 * 3600)) <= Fraction(1, 2000)
