"""What skills does, on a real database."""

import asyncio
import json
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from aifn_common.database import Database, transaction
from aifn_common.errors import Stale
from aifn_events.access import AwardGranted
from aifn_events.registry import MachineDescribed
from aifn_events.skills import CourseSuggested, SessionScheduled
from aifn_skills import actions, store
from aifn_skills.domain import (
    CourseExists,
    CourseUnknown,
    PrerequisiteWrong,
    Seat,
    SeatTaken,
    SeatUnknown,
    SessionExists,
    SessionPast,
    SessionUnknown,
    SoldOut,
    Suggestion,
)

from tests.skills.make import (
    LATER,
    NOW,
    SOURCE,
    book,
    course,
    give_up,
    granted,
    hear,
    jump_to,
    load,
    machine,
    session,
    teach,
)


async def announced(db: Database, topic: str) -> list[dict[str, Any]]:
    rows = await db.fetch("SELECT value FROM outbox WHERE topic = $1 ORDER BY seq", topic)
    return [json.loads(row["value"]) for row in rows]


async def suggestions(db: Database, project_id: str = "p1") -> dict[str, Suggestion]:
    everything = store.Reach(True, frozenset(), frozenset(), None)
    async with transaction(db) as tx:
        found = await store.list_suggestions(tx, everything, project_id=project_id, after=None, limit=50)
    return {one.rule: one for one in found}


async def free(db: Database, session_id: str = "porting-1") -> int:
    async with transaction(db) as tx:
        return (await store.get_session(tx, session_id)).free


async def test_the_seed_is_loaded_once_and_announced_once(db: Database) -> None:
    await load(db)
    first = await announced(db, SessionScheduled.topic)
    await load(db)
    assert await announced(db, SessionScheduled.topic) == first
    assert {event["factory_id"] for event in first} == {"lumi-aif"}
    assert await db.fetchval("SELECT count(*) FROM course") == 16
    assert len(first) == await db.fetchval("SELECT count(*) FROM session") == 8


async def test_loading_the_seed_again_keeps_what_people_changed(db: Database) -> None:
    await load(db)
    async with transaction(db) as tx:
        before = await store.get_course(tx, "rocm-porting", lock=True)
        await actions.revise_course(tx, before, course("rocm-porting", title="Ours"))
    await load(db)
    async with transaction(db) as tx:
        after = await store.get_course(tx, "rocm-porting")
    assert (after.title, after.revision) == ("Ours", 1)


async def test_a_course_is_read_back_as_it_was_written(db: Database) -> None:
    words = course(topics=("rocm", "hip"))
    async with transaction(db) as tx:
        await actions.add_course(tx, words)
        assert await store.get_course(tx, "porting") == words


async def test_a_second_course_and_a_second_session_of_the_same_name_are_refused(db: Database) -> None:
    await teach(db, session())
    with pytest.raises(CourseExists):
        await teach(db)
    async with transaction(db) as tx:
        with pytest.raises(SessionExists):
            await actions.schedule_session(tx, session(seats=99))
    assert await free(db) == 3


async def test_a_course_cannot_need_one_that_is_not_there(db: Database) -> None:
    async with transaction(db) as tx:
        with pytest.raises(PrerequisiteWrong):
            await actions.add_course(tx, course(prerequisites=("nothing",)))
        with pytest.raises(CourseUnknown):
            await store.get_course(tx, "porting")


async def test_a_session_is_announced_when_planned_and_when_its_seats_change(db: Database) -> None:
    await teach(db, session())
    await book(db, "porting-1", "mari")
    await book(db, "porting-1", "ada")
    await give_up(db, "porting-1", "mari")
    events = await announced(db, SessionScheduled.topic)
    assert [event["seats_free"] for event in events] == [3, 2, 1, 2]
    assert {event["seats"] for event in events} == {3}


async def test_many_people_at_once_never_get_more_seats_than_there_are(db: Database) -> None:
    await teach(db, session(seats=3))
    results = await asyncio.gather(
        *(book(db, "porting-1", f"person-{number}") for number in range(12)), return_exceptions=True
    )
    booked = [result for result in results if isinstance(result, Seat)]
    assert len(booked) == 3
    assert sum(isinstance(result, SoldOut) for result in results) == 9
    assert await db.fetchval("SELECT count(*) FROM seat") == 3
    assert await free(db) == 0
    assert [event["seats_free"] for event in await announced(db, SessionScheduled.topic)] == [3, 2, 1, 0]


async def test_one_person_asking_many_times_at_once_gets_one_seat(db: Database) -> None:
    await teach(db, session(seats=3))
    results = await asyncio.gather(*(book(db, "porting-1", "mari") for _ in range(6)), return_exceptions=True)
    assert sum(isinstance(result, Seat) for result in results) == 1
    assert sum(isinstance(result, SeatTaken) for result in results) == 5
    assert await free(db) == 2


async def test_a_seat_that_is_given_back_can_be_booked_again(db: Database) -> None:
    await teach(db, session(seats=1))
    await book(db, "porting-1", "mari")
    with pytest.raises(SoldOut):
        await book(db, "porting-1", "ada")
    await give_up(db, "porting-1", "mari")
    await book(db, "porting-1", "ada")
    with pytest.raises(SeatUnknown):
        await give_up(db, "porting-1", "mari")


async def test_a_session_that_has_begun_takes_nobody_and_lets_nobody_go(db: Database) -> None:
    await teach(db, session())
    await book(db, "porting-1", "mari")
    jump_to(LATER + timedelta(seconds=1))
    with pytest.raises(SessionPast):
        await book(db, "porting-1", "ada")
    with pytest.raises(SessionPast):
        await give_up(db, "porting-1", "mari")
    assert await free(db) == 2


async def test_an_unknown_session_has_no_seats(db: Database) -> None:
    with pytest.raises(SessionUnknown):
        await book(db, "nothing", "mari")


async def test_the_first_award_on_amd_gpus_suggests_porting_and_names_its_cause(db: Database) -> None:
    await load(db)
    event = granted(mode="aif_fast_lane")
    await hear(db, machine(), event)
    (suggestion,) = (await suggestions(db)).values()
    assert (suggestion.rule, suggestion.course_id) == ("first-amd-project", "rocm-porting")
    assert (suggestion.cause_topic, suggestion.cause_id) == ("aifn-award-granted-v1", event.id)
    assert (suggestion.cause_source, suggestion.award_id) == (SOURCE, "award-1")
    (said,) = await announced(db, CourseSuggested.topic)
    assert (said["suggestion_id"], said["cause_id"]) == (suggestion.id, event.id)
    assert (said["rule"], said["because"]) == (suggestion.rule, suggestion.because)


async def test_awards_and_machines_in_any_order_suggest_the_same(db: Database) -> None:
    await load(db)
    for number, order in enumerate(permutations(range(4))):
        project, amd, nvidia = f"p{number}", f"amd-{number}", f"nvidia-{number}"
        events: list[AwardGranted | MachineDescribed] = [
            granted(f"first-{number}", project, machine_id=amd, minute=1),
            granted(f"second-{number}", project, machine_id=nvidia, mode="aif_fast_lane", minute=2),
            machine(amd),
            machine(nvidia, vendor="NVIDIA"),
        ]
        await hear(db, *(events[position] for position in order))
        found = await suggestions(db, project)
        assert {rule: one.award_id for rule, one in found.items()} == {
            "first-amd-project": f"first-{number}",
            "playground-newcomer": f"first-{number}",
            "fast-lane-scaling": f"second-{number}",
        }
    assert len(await announced(db, CourseSuggested.topic)) == 3 * 24


async def test_an_award_before_its_machine_is_known_waits_and_is_the_cause(db: Database) -> None:
    await load(db)
    event = granted(mode="aif_fast_lane")
    await hear(db, event)
    assert await suggestions(db) == {}
    await hear(db, machine())
    assert (await suggestions(db))["first-amd-project"].cause_id == event.id


async def test_award_and_machine_at_the_same_moment_never_miss_each_other(db: Database) -> None:
    await load(db)
    awards = [granted(f"award-{n}", f"p{n}", machine_id=f"m{n % 3}", mode="aif_fast_lane") for n in range(12)]
    machines = [machine(f"m{number}") for number in range(3)]
    async with asyncio.timeout(30):
        await asyncio.gather(
            *(hear(db, event) for pair in zip(awards[:3], machines, strict=True) for event in pair),
            *(hear(db, event) for event in awards[3:]),
        )
    assert await db.fetchval("SELECT count(*) FROM suggestion WHERE rule = 'first-amd-project'") == 12
    assert len(await announced(db, CourseSuggested.topic)) == 12


async def test_a_second_award_on_amd_gpus_suggests_nothing_new(db: Database) -> None:
    await load(db)
    await hear(db, machine(), granted("award-1"), granted("award-2", minute=5), granted("award-2", minute=5))
    assert (await suggestions(db))["first-amd-project"].award_id == "award-1"
    assert len(await announced(db, CourseSuggested.topic)) == 2


async def test_an_older_word_on_a_machine_is_refused_and_changes_nothing(db: Database) -> None:
    await hear(db, machine(revision=2))
    with pytest.raises(Stale):
        await hear(db, machine(vendor="NVIDIA", revision=1))
    assert await db.fetchval("SELECT vendors FROM machine") == {"lumi-g": "AMD"}


async def test_a_machine_that_is_corrected_is_looked_at_again(db: Database) -> None:
    await load(db)
    await hear(db, machine(vendor=None), granted(mode="aif_fast_lane"))
    assert await suggestions(db) == {}
    await hear(db, machine(revision=1))
    assert set(await suggestions(db)) == {"first-amd-project"}


async def test_search_finds_what_all_filters_allow(db: Database) -> None:
    await load(db)
    cases: list[tuple[store.CourseFilter, set[str]]] = [
        (store.CourseFilter(text="rocm"), {"rocm-porting", "rocm-kernels"}),
        (store.CourseFilter(text="ROCM port"), {"rocm-porting"}),
        (store.CourseFilter(topic="slurm"), {"slurm-first-steps", "budget-and-hours"}),
        (store.CourseFilter(kind="sandbox"), {"playground-sandbox", "confidential-data-sandbox"}),
        (store.CourseFilter(level="expert"), {"performance-at-scale", "rocm-kernels"}),
        (store.CourseFilter(provider="bsc-aif"), {"python-to-gpu", "playground-sandbox"}),
        (store.CourseFilter(text="rocm", level="entry"), set()),
        (store.CourseFilter(text="' | !"), set()),
    ]
    async with transaction(db) as tx:
        for wanted, names in cases:
            found = await store.list_courses(tx, wanted, after=None, limit=50)
            assert {one.id for one in found} == names, wanted


async def test_search_follows_the_words_as_they_change(db: Database) -> None:
    await teach(db)
    async with transaction(db) as tx:
        before = await store.get_course(tx, "porting", lock=True)
        await actions.revise_course(tx, before, course(title="Kernels", topics=("hip",)))
        for text, count in (("kernel", 1), ("hip", 1), ("rocm", 0)):
            found = await store.list_courses(tx, store.CourseFilter(text=text), after=None, limit=5)
            assert len(found) == count


async def test_the_clock_of_the_catalogue_is_the_business_clock(db: Database) -> None:
    jump_to(NOW.replace(year=2017))
    await load(db)
    first = await db.fetchval("SELECT starts_at FROM session WHERE id = 'slurm-first-steps-1'")
    assert first == NOW.replace(year=2017, day=24, hour=8)
