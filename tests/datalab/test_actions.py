"""What the Data Lab does, on a real database."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest
from aifn_common import clock
from aifn_common.database import Database, transaction
from aifn_common.errors import Refusal, Stale
from aifn_datalab import actions, store
from aifn_datalab.domain import (
    AccessRequest,
    AlreadyDecided,
    AlreadyGranted,
    DatasetExists,
    DatasetUnknown,
    LocationRefused,
    ProjectUnknown,
    RequestOpen,
)
from aifn_events.datalab import DatasetAccessDecided, DatasetDescribed

from tests.datalab.make import (
    NEXT_YEAR,
    YEAR_AFTER,
    allocation,
    answer,
    ask,
    dataset,
    know_places,
    know_project,
    machine,
    offer,
    personal,
)


async def announced(db: Database, topic: str) -> list[dict[str, Any]]:
    rows = await db.fetch("SELECT value FROM outbox WHERE topic = $1 ORDER BY seq", topic)
    return [json.loads(row["value"]) for row in rows]


async def decisions(db: Database) -> list[dict[str, Any]]:
    return await announced(db, DatasetAccessDecided.topic)


async def reread(db: Database, request_id: str) -> AccessRequest:
    async with transaction(db) as tx:
        return await store.get_request(tx, request_id)


async def test_a_described_dataset_is_read_back_as_it_was_written_and_announced(db: Database) -> None:
    words = personal(size_bytes=2**62, residency=("EE", "FI"))
    await offer(db, words)
    async with transaction(db) as tx:
        assert await store.get_dataset(tx, "voices") == words
    (event,) = await announced(db, DatasetDescribed.topic)
    assert (event["dataset_id"], event["revision"], event["residency"]) == ("voices", 0, ["EE", "FI"])


async def test_a_second_dataset_of_the_same_name_is_refused_and_changes_nothing(db: Database) -> None:
    await offer(db, dataset())
    with pytest.raises(DatasetExists):
        await offer(db, dataset(title="Another"))
    async with transaction(db) as tx:
        assert (await store.get_dataset(tx, "speech")).title == "Finnish speech corpus"
    assert len(await announced(db, DatasetDescribed.topic)) == 1


async def test_a_credential_in_a_location_is_never_kept(db: Database) -> None:
    with pytest.raises(LocationRefused):
        await offer(db, dataset(location="https://bob:secret@example.eu/x"))
    assert await db.fetchval("SELECT count(*) FROM dataset") == 0


async def test_open_data_are_granted_and_announced_once(db: Database) -> None:
    await know_project(db)
    await offer(db, dataset())
    request = await ask(db, "speech")
    assert request == await reread(db, request.id)
    (event,) = await decisions(db)
    assert event["granted"] is True
    assert event["decided_by"] == "rule"
    assert event["reasons"] == request.reasons()


async def test_unknown_project_and_unknown_dataset_are_refused_and_leave_nothing(db: Database) -> None:
    with pytest.raises(ProjectUnknown):
        await ask(db, "speech")
    await know_project(db)
    with pytest.raises(DatasetUnknown):
        await ask(db, "speech")
    assert await db.fetchval("SELECT count(*) FROM access_request") == 0


async def test_a_grant_of_personal_data_ends_with_the_allocation(db: Database) -> None:
    await know_project(db)
    await offer(db, personal())
    await know_places(db, machine(), allocation(ends_at=NEXT_YEAR))
    request = await ask(db, "voices", legal_basis="consent")
    assert (request.state, request.expires_at) == ("granted", NEXT_YEAR)
    assert (await decisions(db))[0]["expires_at"] == "2127-01-21T09:00:00Z"


async def test_an_allocation_that_has_ended_counts_no_more(db: Database) -> None:
    await know_project(db)
    await offer(db, personal())
    await know_places(db, machine(), allocation(ends_at=clock.now() - timedelta(seconds=1)))
    assert (await ask(db, "voices", legal_basis="consent")).waits_for == "allocation"


async def test_request_allocation_and_machine_may_come_in_any_order(db: Database) -> None:
    await offer(db, personal())
    orders = list(permutations(["machine", "allocation", "request"]))
    for number, order in enumerate(orders):
        project, where = f"p{number}", f"machine-{number}"
        await know_project(db, project)
        for step in order:
            if step == "request":
                await ask(db, "voices", project_id=project, legal_basis="consent")
            else:
                heard = machine(where) if step == "machine" else allocation(project, where, name=project)
                await know_places(db, heard)
    rows = await db.fetch("SELECT state FROM access_request")
    assert [row["state"] for row in rows] == ["granted"] * len(orders)
    assert [event["granted"] for event in await decisions(db)] == [True] * len(orders)


async def test_a_machine_abroad_that_is_described_late_refuses_what_waited(db: Database) -> None:
    await know_project(db)
    await offer(db, personal())
    await know_places(db, allocation(machine_id="mn5"))
    request = await ask(db, "voices", legal_basis="consent")
    assert request.waits_for == "allocation"
    await know_places(db, machine("mn5", "ES"))
    assert (await reread(db, request.id)).state == "refused"
    assert [event["granted"] for event in await decisions(db)] == [False]


async def test_what_waits_for_the_steward_is_not_decided_by_a_new_allocation(db: Database) -> None:
    await know_project(db)
    await offer(db, dataset(sensitivity="confidential", grade="industrial"))
    request = await ask(db, "speech")
    await know_places(db, machine(), allocation())
    assert (await reread(db, request.id)).waits_for == "steward"
    granted = await answer(db, request.id)
    assert (granted.state, granted.steward, granted.expires_at) == ("granted", "dora", NEXT_YEAR)
    (event,) = await decisions(db)
    assert event["decided_by"] == "steward"
    assert event["reasons"][-1] == "steward: agreement signed"


async def test_two_stewards_at_once_make_one_decision(db: Database) -> None:
    await know_project(db)
    await offer(db, dataset(sensitivity="confidential", grade="industrial"))
    request = await ask(db, "speech")
    results = await asyncio.gather(
        *(answer(db, request.id, granted=number % 2 == 0, steward=f"s{number}") for number in range(6)),
        return_exceptions=True,
    )
    made = [result for result in results if isinstance(result, AccessRequest)]
    assert len(made) == 1
    assert all(isinstance(result, AlreadyDecided) for result in results if result is not made[0])
    assert [event["granted"] for event in await decisions(db)] == [made[0].state == "granted"]


@pytest.mark.parametrize("words", [{}, {"sensitivity": "confidential", "grade": "industrial"}])
async def test_many_requests_at_once_leave_one_and_the_others_are_told_its_id(
    db: Database, words: dict[str, str]
) -> None:
    await know_project(db)
    await offer(db, dataset(**words))
    results = await asyncio.gather(*(ask(db, "speech") for _ in range(8)), return_exceptions=True)
    (made,) = [result for result in results if isinstance(result, AccessRequest)]
    others = [result for result in results if result is not made]
    assert all(isinstance(other, RequestOpen | AlreadyGranted) and other.request_id == made.id for other in others)
    assert await db.fetchval("SELECT count(*) FROM access_request") == 1
    assert len(await decisions(db)) == (0 if words else 1)


async def test_retiring_a_dataset_refuses_what_still_waits_for_it(db: Database) -> None:
    await know_project(db)
    await offer(db, dataset(sensitivity="confidential", grade="industrial"))
    request = await ask(db, "speech")
    async with transaction(db) as tx:
        await actions.retire_dataset(tx, "speech")
    assert (await reread(db, request.id)).state == "refused"
    assert [event["granted"] for event in await decisions(db)] == [False]
    assert [event["retired"] for event in await announced(db, DatasetDescribed.topic)] == [False, True]


async def test_retiring_while_many_ask_never_leaves_an_open_request(db: Database) -> None:
    await offer(db, dataset(sensitivity="confidential", grade="industrial"))
    projects = [f"p{number}" for number in range(8)]
    for name in projects:
        await know_project(db, name)

    async def retire() -> None:
        async with transaction(db) as tx:
            await actions.retire_dataset(tx, "speech")

    await asyncio.gather(*(ask(db, "speech", project_id=name) for name in projects), retire())
    states = await db.fetch("SELECT state FROM access_request")
    assert [row["state"] for row in states] == ["refused"] * 8
    assert len(await decisions(db)) == 8


async def test_allocations_machines_requests_and_answers_at_once_end_without_a_deadlock(db: Database) -> None:
    await offer(db, personal(), personal("faces"), dataset(sensitivity="confidential", grade="industrial"))
    for name in ("p1", "p2", "p3"):
        await know_project(db, name)
    work = [
        ask(db, dataset_id, project_id=name, legal_basis="consent")
        for name in ("p1", "p2", "p3")
        for dataset_id in ("voices", "faces", "speech")
    ]
    heard = [
        know_places(db, allocation(name, machine_id, name=f"{name}-{machine_id}"))
        for name in ("p1", "p2", "p3")
        for machine_id in ("lumi", "mahti")
    ]
    machines = [know_places(db, machine(name)) for name in ("lumi", "mahti")]
    async with asyncio.timeout(30):
        await asyncio.gather(*work, *heard, *machines)
    rows = await db.fetch("SELECT dataset_id, state FROM access_request")
    assert {(row["dataset_id"], row["state"]) for row in rows} == {
        ("voices", "granted"),
        ("faces", "granted"),
        ("speech", "pending"),
    }
    assert len(await decisions(db)) == 6


async def test_a_longer_allocation_allows_a_longer_grant(db: Database) -> None:
    await know_project(db)
    await offer(db, personal())
    await know_places(db, machine(), allocation(ends_at=NEXT_YEAR))
    first = await ask(db, "voices", legal_basis="consent")
    with pytest.raises(AlreadyGranted):
        await ask(db, "voices", legal_basis="consent")
    await know_places(db, allocation(ends_at=YEAR_AFTER, name="a2"))
    second = await ask(db, "voices", legal_basis="consent")
    assert (first.expires_at, second.expires_at) == (NEXT_YEAR, YEAR_AFTER)


async def test_an_older_word_on_a_machine_is_refused_and_changes_nothing(db: Database) -> None:
    await know_places(db, machine("lumi", "FI", revision=2))
    with pytest.raises(Stale):
        await know_places(db, machine("lumi", "SE", revision=1))
    assert await db.fetchval("SELECT country FROM machine") == "FI"


async def test_a_grant_lapses_by_the_business_clock(db: Database) -> None:
    await know_project(db)
    await offer(db, personal())
    await know_places(db, machine(), allocation(ends_at=NEXT_YEAR))
    await ask(db, "voices", legal_basis="consent")
    clock.use(clock.SimulatedClock(epoch=NEXT_YEAR + timedelta(days=1), started=datetime.now(UTC), factor=1))
    again = await ask(db, "voices", legal_basis="consent")
    assert again.waits_for == "allocation"


async def test_search_finds_what_all_filters_allow(db: Database) -> None:
    await offer(
        db,
        dataset("corpus"),
        dataset("plants", title="Plants", description="pictures of leaves", licence="ODbL-1.0"),
        personal(title="Voices", description="interviews"),
        dataset("gone", title="Gone", description=""),
    )
    cases: list[tuple[store.DatasetFilter, list[str]]] = [
        (store.DatasetFilter(), ["corpus", "plants", "voices"]),
        (store.DatasetFilter(text="spee"), ["corpus"]),
        (store.DatasetFilter(text="SPEECH read"), ["corpus"]),
        (store.DatasetFilter(text="speech leaves"), []),
        (store.DatasetFilter(text="corp"), ["corpus"]),
        (store.DatasetFilter(text="'); DROP TABLE dataset; --"), []),
        (store.DatasetFilter(text="!!! & |"), []),
        (store.DatasetFilter(licence="ODbL-1.0"), ["plants"]),
        (store.DatasetFilter(sensitivity="personal"), ["voices"]),
        (store.DatasetFilter(grade="open"), ["corpus", "plants"]),
        (store.DatasetFilter(residency="FI"), ["corpus", "plants", "voices"]),
        (store.DatasetFilter(residency="ES"), ["corpus", "plants"]),
        (store.DatasetFilter(retired=True), ["corpus", "gone", "plants", "voices"]),
    ]
    async with transaction(db) as tx:
        await actions.retire_dataset(tx, "gone")
        for wanted, names in cases:
            found = await store.list_datasets(tx, wanted, after=None, limit=10)
            assert [one.id for one in found] == names, wanted


async def test_a_steward_cannot_overrule_a_rule_that_changed_its_mind(db: Database) -> None:
    await know_project(db)
    await offer(db, dataset(sensitivity="confidential", grade="industrial"))
    request = await ask(db, "speech")
    await know_project(db, revision=1, closed=True)
    with pytest.raises(Refusal, match="closed"):
        await answer(db, request.id)
    assert (await reread(db, request.id)).state == "pending"
    assert await decisions(db) == []
