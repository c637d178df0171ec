"""Usage that nobody can pay yet waits, is seen, and is charged once somebody can."""

import pytest
from aifn_accounting.actions.usage import attribute_usage, settle_suspense
from aifn_accounting.domain.usage import UnknownProject
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import suspense
from aifn_common.database import Database, transaction
from aifn_common.errors import NotFound
from aifn_events.usage import UsageCharged
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.accounting.make import (
    CPU,
    GPU,
    GRANTED,
    announced,
    balances,
    broken_checks,
    charge,
    close,
    grant,
    hold,
    used,
)
from tests.support.backends import Backends
from tests.support.http import Asker


async def settle(db: Database) -> int:
    async with transaction(db) as tx:
        return await settle_suspense(tx)


async def attribute(db: Database, number: int, project: str) -> None:
    async with transaction(db) as tx:
        await attribute_usage(tx, number, project, by="anna", reason="mistyped at the site")


async def waiting(db: Database) -> list[suspense.Waiting]:
    async with db.acquire() as tx:
        return await suspense.list_waiting(tx, project=None, after=0, limit=100)


async def test_usage_of_a_project_without_an_allocation_waits_and_is_charged_when_there_is_one(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db, "p2")
    assert await charge(db, settings, used(amount=600)) == []
    [one] = await waiting(db)
    assert (one.project_id, one.job_id, one.amounts) == ("p1", "j1", {GPU: 600})
    assert await announced(db, UsageCharged.topic) == []
    assert await settle(db) == 0
    await grant(db)
    assert await settle(db) == 1
    assert await balances(db) == (GRANTED - 600, 0, 600, 0)
    [said] = await announced(db, UsageCharged.topic)
    assert UsageCharged.model_validate_json(said["value"]).amount == 600
    assert (await waiting(db), await settle(db)) == ([], 0)
    assert await broken_checks(db) == []


async def test_who_follows_the_charges_hears_of_what_was_settled_after_what_was_read(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db, "p2")
    await charge(db, settings, used(amount=600), used("j2", 50, "p2"))
    first = (await ask.get("/v1/usage-events")).json()
    assert [one["job_id"] for one in first["items"]] == ["j2"]
    await grant(db)
    await settle(db)
    await charge(db, settings, used("j3", 60, "p2"))
    later = (await ask.get("/v1/usage-events", params={"after": first["next"]})).json()
    assert [(one["job_id"], one["amount"]) for one in later["items"]] == [("j1", 600), ("j3", 60)]
    one_by_one = (await ask.get("/v1/usage-events", params={"after": first["next"], "limit": 1})).json()
    assert [one["job_id"] for one in one_by_one["items"]] == ["j1"]
    rest = (await ask.get("/v1/usage-events", params={"after": one_by_one["next"]})).json()
    assert [one["job_id"] for one in rest["items"]] == ["j3"]


async def test_a_record_that_comes_again_while_it_waits_changes_nothing(
    db: Database, settings: AccountingSettings
) -> None:
    await charge(db, settings, used(), used())
    assert await charge(db, settings, used()) == []
    assert len(await waiting(db)) == 1


async def test_a_record_of_two_resources_waits_until_both_can_be_paid(
    db: Database, settings: AccountingSettings
) -> None:
    other = "lumi/lumi-g/storage"
    await grant(db)
    await charge(db, settings, used(amount={GPU: 5, other: 7}))
    assert (await settle(db), await balances(db)) == (0, (GRANTED, 0, 0, 0))
    await grant(db, award_id="award-2", resource=other)
    assert await settle(db) == 1
    assert await balances(db) == (GRANTED - 5, 0, 5, 0)
    assert len(await announced(db, UsageCharged.topic)) == 2
    assert await broken_checks(db) == []


async def test_a_correction_of_what_waits_takes_its_place(db: Database, settings: AccountingSettings) -> None:
    await charge(db, settings, used(amount=600))
    await charge(db, settings, used(amount=500, revision=1))
    assert [one.revision for one in await waiting(db)] == [1]
    await grant(db)
    assert await settle(db) == 1
    assert await balances(db) == (GRANTED - 500, 0, 500, 0)
    await charge(db, settings, used(amount=400, revision=2))
    assert await balances(db) == (GRANTED - 400, 0, 400, 0)
    assert await broken_checks(db) == []


async def test_a_correction_that_names_a_project_nobody_knows_gives_back_and_waits(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    await charge(db, settings, used(amount=600))
    await charge(db, settings, used(amount=600, revision=1, project="stranger"))
    assert await balances(db) == (GRANTED, 0, 0, 0)
    assert [one.project_id for one in await waiting(db)] == ["stranger"]
    assert await broken_checks(db) == []


async def test_what_was_paid_by_one_and_then_waited_may_be_paid_by_either(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    await grant(db, "p2")
    for job, payer in (("j1", "p1"), ("j2", "p2")):
        await charge(db, settings, used(job, 600))
        await charge(db, settings, used(job, 500, revision=1, project="stranger"))
        [one] = await waiting(db)
        await attribute(db, one.usage_number, payer)
    assert await balances(db) == (GRANTED - 500, 0, 500, 0)
    assert await balances(db, "p2") == (GRANTED - 500, 0, 500, 0)
    said = [UsageCharged.model_validate_json(row["value"]) for row in await announced(db, UsageCharged.topic)]
    assert [(one.job_id, one.revision, one.project_id, one.amount) for one in said] == [
        ("j1", 0, "p1", 600),
        ("j1", 1, "p1", 500),
        ("j2", 0, "p1", 600),
        ("j2", 1, "p1", 0),
        ("j2", 1, "p2", 500),
    ]
    assert await broken_checks(db) == []


async def test_usage_of_a_mistyped_project_is_given_to_the_right_one_and_so_are_its_corrections(
    db: Database, settings: AccountingSettings
) -> None:
    await grant(db)
    await charge(db, settings, used(amount=600, project="p11"))
    [one] = await waiting(db)
    with pytest.raises(UnknownProject):
        await attribute(db, one.usage_number, "nobody")
    await attribute(db, one.usage_number, "p1")
    assert await balances(db) == (GRANTED - 600, 0, 600, 0)
    with pytest.raises(NotFound):
        await attribute(db, one.usage_number, "p1")
    await charge(db, settings, used(amount=500, project="p11", revision=1))
    assert await settle(db) == 1
    assert await balances(db) == (GRANTED - 500, 0, 500, 0)
    assert await broken_checks(db) == []


async def test_what_waited_lets_the_hold_of_its_job_go(db: Database, settings: AccountingSettings) -> None:
    await grant(db)
    await hold(db, amount=1000)
    await charge(db, settings, used(amount={CPU: 5}, partition_id="lumi-c"))
    await close(db)
    await grant(db, award_id="award-2", resource=CPU)
    assert await settle(db) == 1
    assert await balances(db) == (GRANTED, 0, 0, 0)
    assert await broken_checks(db) == []


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(
        [("used", 0), ("used", 1), ("used", 2), ("other", 0), ("grant", 0), ("grant", 1), ("settle", 0)]
    )
)
async def test_balances_do_not_depend_on_whether_the_grant_or_the_usage_was_heard_first(
    backends: Backends, settings: AccountingSettings, order: list[tuple[str, int]]
) -> None:
    async with backends.database("aifn_accounting") as db:
        for what, number in order:
            if what == "used":
                await charge(db, settings, used(amount=600 - 100 * number, revision=number))
            elif what == "other":
                await charge(db, settings, used("j2", 50, "p2"))
            elif what == "grant":
                await grant(db, f"p{number + 1}")
            else:
                await settle(db)
        await settle(db)
        assert await balances(db) == (GRANTED - 400, 0, 400, 0)
        assert await balances(db, "p2") == (GRANTED - 50, 0, 50, 0)
        assert await broken_checks(db) == []


async def test_those_who_look_after_the_books_see_what_waits_and_say_who_pays(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await grant(db)
    await charge(db, settings, used(amount=600, project="p11"), used("j2", 5, project="p12"))
    page = (await ask.get("/v1/suspense", params={"limit": 1})).json()
    assert [one["reported_project"] for one in page["items"]] == ["p11"]
    assert "local_user" not in page["items"][0]
    rest = (await ask.get("/v1/suspense", params={"after": page["next"]})).json()
    assert [one["reported_project"] for one in rest["items"]] == ["p12"]
    path = f"/v1/suspense/{page['items'][0]['usage_number']}/attribution"
    words = {"project_id": "p1", "reason": "mistyped at the site"}
    assert (await ask.post(path, json=words | {"reason": ""})).status_code == 422
    assert (await ask.post(path, json=words | {"project_id": "nobody"})).json()["code"] == "unknown_project"
    assert (await ask.post(path, json=words)).status_code == 204
    assert (await ask.post(path, json=words)).status_code == 404
    assert await balances(db) == (GRANTED - 600, 0, 600, 0)
