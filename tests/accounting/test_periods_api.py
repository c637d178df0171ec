"""Rate cards, periods and gaps over HTTP: to whom, in pages, and in which words they are refused."""

from datetime import UTC, datetime
from typing import Any

import pytest
from aifn_accounting.actions import completeness, rates
from aifn_accounting.settings import AccountingSettings
from aifn_common import clock
from aifn_common.clock import SimulatedClock
from aifn_common.database import Database, transaction

from tests.accounting.make import GPU, charge, grant, hold, hours, know_machine, used
from tests.support.http import Asker

HALLOWEEN = datetime(2026, 10, 31, 22, tzinfo=UTC)
CARD: dict[str, Any] = {
    "id": "lumi-g-2027",
    "resource": GPU,
    "unit": "slice-second",
    "valid_from": "2027-01-01T00:00:00Z",
    "rule": {"slices_per_node": 64, "whole_nodes": "always"},
    "title": "whole nodes only",
    "source": "https://example.eu/billing",
    "not_confirmed": ["whole_nodes"],
}


@pytest.fixture
async def ledger(db: Database, settings: AccountingSettings) -> None:
    """Two runs in October, one of which goes on into November."""
    await know_machine(db)
    await grant(db, "p1", starts_at=datetime(2026, 9, 1, tzinfo=UTC))
    await charge(db, settings, run("j1", 600), run("j2", 1000, ended_at=HALLOWEEN + hours(4)))


def run(job: str, amount: int, **values: Any) -> Any:
    return used(
        job,
        amount,
        **({"started_at": HALLOWEEN, "submitted_at": HALLOWEEN, "ended_at": HALLOWEEN + hours(1)} | values),
    )


async def items(ask: Asker, path: str, **params: Any) -> list[dict[str, Any]]:
    answer = await ask.get(path, params=params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def test_a_manager_closes_a_month_and_everybody_entitled_sees_what_came_later(
    db: Database, ask: Asker, settings: AccountingSettings, ledger: None
) -> None:
    (october, november) = await items(ask, "/v1/periods")
    assert (october["month"], october["state"], november["state"]) == ("2026-10", "open", "open")
    assert [one["amount"] for one in await items(ask, "/v1/periods/2026-10/totals")] == [1100]
    assert [one["amount"] for one in await items(ask, "/v1/periods/2026-11/totals")] == [500]
    closed = await ask.post("/v1/periods/2026-10/close", json={"reason": "end of month"})
    assert (closed.status_code, closed.json()["state"], closed.json()["records"]) == (200, "closed", 2)
    await charge(db, settings, run("j1", 450, revision=1), run("j3", 7))
    async with transaction(db) as tx:
        await completeness.watch_usage(tx, settings)
    ask.as_("auditor")
    seen = await items(ask, "/v1/periods/2026-10/entries")
    assert [(one["kind"], one["change"], one["corrects_revision"]) for one in seen] == [
        ("correction", -150, 0),
        ("late", 7, None),
    ]
    assert {one["recorded_in"] for one in seen} == {"2026-11"}
    assert await items(ask, "/v1/periods/2026-11/entries", by="recorded_in") == seen
    first = (await ask.get("/v1/periods/2026-10/entries", params={"limit": 1})).json()
    assert await items(ask, "/v1/periods/2026-10/entries", after=first["next"]) == seen[1:]
    assert [one["amount"] for one in await items(ask, "/v1/periods/2026-10/totals")] == [1100]
    (check,) = await items(ask, "/v1/periods/2026-10/verify")
    assert (check["frozen"], check["entered"], check["counted"], check["passed"]) == (1100, -143, 957, True)
    assert [(one["state"], one["entries"]) for one in await items(ask, "/v1/periods")] == [("closed", 2), ("open", 0)]


@pytest.mark.parametrize(
    ("month", "status", "code"),
    [
        ("2026-11", 409, "period_not_over"),
        ("2026-10", 409, "holds_open"),
        ("2026-13", 422, "invalid"),
        ("9999-12", 422, "invalid"),
    ],
)
async def test_a_month_that_cannot_be_closed_says_why(
    db: Database, ask: Asker, ledger: None, month: str, status: int, code: str
) -> None:
    clock.use(SimulatedClock(epoch=HALLOWEEN, started=datetime.now(UTC), factor=1))
    await hold(db, "j9", 100, starts_at=HALLOWEEN)
    clock.use(SimulatedClock(epoch=HALLOWEEN + hours(72), started=datetime.now(UTC), factor=1))
    answer = await ask.post(f"/v1/periods/{month}/close", json={"reason": "end of month"})
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_who_may_not_close_or_publish_is_refused(ask: Asker, ledger: None) -> None:
    for role in ("auditor", "operator", "pi"):
        ask.as_(role)
        assert (await ask.post("/v1/periods/2026-10/close", json={"reason": "because"})).status_code == 403
        assert (await ask.post("/v1/rate-cards", json=CARD)).status_code == 403
    assert (await ask.get("/v1/periods")).status_code == 403
    assert (await ask.get("/v1/gaps")).status_code == 403


async def test_a_card_is_published_seen_by_all_and_prices_a_run_of_its_time(
    db: Database, ask: Asker, settings: AccountingSettings, ledger: None
) -> None:
    made = await ask.post("/v1/rate-cards", json=CARD)
    assert (made.status_code, made.json()["version"], made.json()["confirmed"]) == (201, 1, False)
    again = await ask.post("/v1/rate-cards", json=CARD)
    assert (again.status_code, again.json()["code"]) == (409, "duplicate_rate_card")
    ask.as_("applicant")
    first = (await ask.get("/v1/rate-cards", params={"limit": 1})).json()
    assert [one["id"] for one in first["items"]] == ["as-reported"]
    assert [one["id"] for one in await items(ask, "/v1/rate-cards", after=first["next"])] == ["lumi-g-2027"]
    assert await items(ask, "/v1/rate-cards", resource="lumi/lumi-c/node-time") == []
    die = {"resource": GPU, "nodes": 1, "seconds": 3600, "slices": 8}
    now = (await ask.post("/v1/rate-cards/quote", json=die)).json()
    assert (now["rate_card"], now["amount"], now["gpu_hours"]) == ("as-reported", 8 * 3600, "0.500")
    then = (await ask.post("/v1/rate-cards/quote", json=die | {"ends_at": "2027-02-01T00:00:00Z"})).json()
    assert (then["rate_card"], then["amount"], then["node_hours"]) == ("lumi-g-2027", 64 * 3600, "1.000")


async def test_a_price_of_a_time_without_a_card_is_refused(ask: Asker, ledger: None) -> None:
    words = {"resource": GPU, "nodes": 1, "seconds": 60}
    for change, status in (({"ends_at": "0001-01-01T00:00:00Z"}, 422), ({"resource": "lumi/lumi-x/gpu-time"}, 404)):
        assert (await ask.post("/v1/rate-cards/quote", json=words | change)).status_code == status


async def test_the_quote_of_a_shared_node_is_the_public_figure(
    db: Database, ask: Asker, settings: AccountingSettings, ledger: None
) -> None:
    await db.execute("ALTER TABLE usage_record DISABLE TRIGGER ALL; DELETE FROM usage_record")
    async with transaction(db) as tx:
        await rates.load_seed(tx, settings)
    # LUMI's own example: 1 die and 128 GB for a day.
    words = {"resource": GPU, "nodes": 1, "seconds": 86_400, "slices": 8, "devices": 1, "memory_mib": 131_072}
    quoted = (await ask.post("/v1/rate-cards/quote", json=words)).json()
    assert (quoted["rate_card"], quoted["gpu_hours"]) == ("lumi-g", "24.000")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"valid_from": "2026-01-01T00:00:00Z"}, "card_begins_in_past"),
        ({"rule": {"slices_per_node": 8, "whole_nodes": "always"}}, "unit_mismatch"),
        ({"rule": {"slices_per_node": 64}}, "wrong_rule"),
        ({"unit": "euro"}, "invalid"),
        ({"currency": "EUR"}, "invalid"),
    ],
)
async def test_a_card_that_makes_no_sense_is_refused(
    ask: Asker, ledger: None, change: dict[str, Any], code: str
) -> None:
    answer = await ask.post("/v1/rate-cards", json=CARD | change)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_gaps_come_in_pages_and_can_be_those_that_are_open(db: Database, ask: Asker) -> None:
    await db.execute(
        "INSERT INTO usage_gap (machine_id, day, reason, records, overlapping, opened_at, looked_at, closed_at) VALUES "
        "('lumi', '2026-10-30', 'no_statement', 0, 0, now(), now(), now()), "
        "('lumi', '2026-10-31', 'overlap', 2, 2, now(), now(), NULL), "
        "('karolina', '2026-10-31', 'no_statement', 0, 0, now(), now(), NULL)"
    )
    assert [one["state"] for one in await items(ask, "/v1/gaps", machine="lumi")] == ["closed", "open"]
    first = (await ask.get("/v1/gaps", params={"limit": 1, "only_open": True})).json()
    assert [one["reason"] for one in first["items"]] == ["overlap"]
    (second,) = await items(ask, "/v1/gaps", only_open=True, after=first["next"])
    assert second["machine_id"] == "karolina"
    assert (await ask.get("/v1/gaps", params={"after": "nonsense"})).status_code == 422
