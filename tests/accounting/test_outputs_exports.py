"""Exports: every format says the same as the ledger, and nothing is billed."""

import csv
import io
import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from aifn_accounting.api import exports as exports_api
from aifn_accounting.exports import focus, parquet, tables, usage_record
from aifn_accounting.exports.usage_record import RunSegment
from aifn_accounting.settings import AccountingSettings
from aifn_common.database import Database
from arro3.io import read_parquet
from hypothesis import given
from hypothesis import strategies as st

from tests.accounting.make import GPU, START, charge, grant, know_machine, used
from tests.accounting.test_api import a_stranger, all_pages
from tests.support.http import Asker

DAYS = {"since": "2026-11-01", "until": "2026-12-01"}
VALUE: dict[str, Any] = {
    "resource": GPU,
    "unit": "gpu-hour",
    "valid_from": "2026-11-01T00:00:00Z",
    "amount": "0.5",
    "currency": "EUR",
    "source": "cost model of 2026, page 4",
}
HOUR_OF_A_NODE = 64 * 3600


async def some_usage(db: Database, settings: AccountingSettings) -> None:
    await know_machine(db)
    await grant(db, "p1", amount=10 * HOUR_OF_A_NODE)
    await grant(db, "p2", amount=10 * HOUR_OF_A_NODE)
    night = START.replace(hour=23, minute=30)
    await charge(db, settings, used("j1", HOUR_OF_A_NODE), used("j2", 100, "p2"))
    await charge(db, settings, used("j1", HOUR_OF_A_NODE // 2, revision=1), used("j3", 7, started_at=night))


async def table(ask: Asker, what: str, **params: Any) -> list[dict[str, str]]:
    answer = await ask.get(f"/v1/exports/{what}", params={**DAYS, **params})
    assert answer.status_code == 200, answer.text
    return list(csv.DictReader(io.StringIO(answer.text)))


def rows_of(content: bytes) -> list[dict[str, Any]]:
    read = read_parquet(io.BytesIO(content)).read_all()
    names = read.schema.names
    columns = [read.column(name).to_pylist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


async def test_the_same_rows_come_as_csv_as_lines_of_json_and_as_parquet(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await some_usage(db, settings)
    lines = await table(ask, "usage")
    assert [(one["job_id"], one["revision"], one["amount"], one["gpu_hours"]) for one in lines] == [
        ("j2", "0", "100", "0.002"),
        ("j1", "1", "115200", "2.000"),
        ("j3", "0", "7", "0.000"),
    ]
    text = (await ask.get("/v1/exports/usage", params={**DAYS, "format": "jsonl"})).text
    objects = [json.loads(line) for line in text.splitlines()]
    assert [{name: str(value) for name, value in one.items()} for one in objects] == lines
    file = await ask.get("/v1/exports/usage", params={**DAYS, "format": "parquet"})
    assert file.headers["content-type"] == "application/vnd.apache.parquet"
    stored = rows_of(file.content)
    assert [(one["amount"], str(one["gpu_hours"])) for one in stored] == [
        (100, "0.002000"),
        (115200, "2.000000"),
        (7, "0.000000"),
    ]
    assert stored[0]["started_at"] == START


async def test_focus_bills_nothing_and_lists_what_the_operator_has_said_an_hour_is_worth_on_that_day(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await some_usage(db, settings)
    unvalued = await table(ask, "focus")
    assert {one["ListCost"] for one in unvalued} == {"0.000000"}
    assert {one["ListUnitPrice"] for one in unvalued} == {""}
    assert (await ask.post("/v1/hour-values", json=VALUE)).status_code == 201
    later = VALUE | {"valid_from": "2026-11-22T00:00:00Z", "amount": "900000"}
    assert (await ask.post("/v1/hour-values", json=later)).status_code == 201
    rows = await table(ask, "focus")
    assert list(rows[0]) == list(focus.COLUMNS)
    shown = [
        (one["SubAccountId"], one["ChargePeriodStart"][:10], one["PricingQuantity"], one["ListCost"]) for one in rows
    ]
    assert shown == [
        ("p1", "2026-11-21", "2.000052", "1.000026"),
        ("p2", "2026-11-21", "0.001736", "0.000868"),
        ("p1", "2026-11-22", "0.000069", "62.100000"),
    ]
    for one in rows:
        assert [one[name] for name in ("BilledCost", "EffectiveCost", "ContractedCost")] == ["0.000000"] * 3
        assert Decimal(one["ListUnitPrice"]) * Decimal(one["PricingQuantity"]) == Decimal(one["ListCost"])
        assert (one["ChargeCategory"], one["BillingCurrency"], one["PricingUnit"]) == ("Usage", "EUR", "GPU-Hours")
        assert json.loads(one["Tags"])["pool"] == "union"
    file = await ask.get("/v1/exports/focus", params={**DAYS, "format": "parquet"})
    assert [str(one["ListCost"]) for one in rows_of(file.content)] == [one["ListCost"] for one in rows]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (VALUE | {"resource": "lumi/lumi-c/node-time"}, "no_such_hours"),
        (VALUE | {"resource": "nobody/has/gpu-time"}, "no_such_hours"),
        (VALUE | {"amount": "-1"}, "invalid"),
        (VALUE | {"amount": "NaN"}, "invalid"),
        (VALUE | {"amount": "0.0000001"}, "invalid"),
        (VALUE | {"currency": "euro"}, "invalid"),
        (VALUE | {"source": "  "}, "invalid"),
        (VALUE | {"valid_from": "2026-11-01"}, "invalid"),
    ],
)
async def test_a_value_that_makes_no_sense_is_refused(
    db: Database, ask: Asker, words: dict[str, Any], code: str
) -> None:
    await know_machine(db)
    answer = await ask.post("/v1/hour-values", json=words)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_a_value_is_never_changed_and_is_listed_with_who_said_it(db: Database, ask: Asker) -> None:
    await know_machine(db)
    assert (await ask.post("/v1/hour-values", json=VALUE)).status_code == 201
    again = await ask.post("/v1/hour-values", json=VALUE | {"amount": "9"})
    assert (again.status_code, again.json()["code"]) == (409, "duplicate_value")
    later = VALUE | {"valid_from": "2027-01-01T00:00:00Z", "amount": "0"}
    assert (await ask.post("/v1/hour-values", json=later)).status_code == 201
    listed = await all_pages(ask, "/v1/hour-values", 1)
    assert [(one["amount"], one["entered_by"]) for one in listed] == [
        ("0.500000", "allocation-manager"),
        ("0.000000", "allocation-manager"),
    ]
    refused = await ask.as_("operator").post("/v1/hour-values", json=later)
    assert refused.status_code == 403


async def test_usage_records_have_the_structure_of_the_recommendation_and_the_amounts_of_the_ledger(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await some_usage(db, settings)
    answer = await ask.get("/v1/exports/usage-records", params=DAYS)
    assert answer.headers["content-type"] == "application/xml"
    assert usage_record.problems(answer.text) == []
    assert answer.text.count("<urf:UsageRecord>") == 3
    assert '<urf:Charge urf:unit="slice-second" urf:formula="as-reported">115200</urf:Charge>' in answer.text
    assert "mmeikalainen" not in answer.text


async def test_open_ondemand_is_told_what_each_users_projects_have_left(
    db: Database, ask: Asker, settings: AccountingSettings
) -> None:
    await some_usage(db, settings)
    answer = (await ask.get("/v1/exports/ondemand", params={"machine": "lumi"})).json()
    assert answer["version"] == 1
    assert 0 <= answer["timestamp"] - int((START + timedelta(hours=3)).timestamp()) < 3600  # the tests' clock runs on
    assert answer["config"] == {"unit": "gpu-hours", "project_type": "project"}
    assert answer["balances"] == [
        {"user": "mmeikalainen", "project": "p1", "value": 37.999},
        {"user": "mmeikalainen", "project": "p2", "value": 39.998},
    ]
    nodes = (await ask.get("/v1/exports/ondemand", params={"machine": "lumi", "unit": "node-hours"})).json()
    assert [one["value"] for one in nodes["balances"]] == [9.499, 9.999]
    refused = await a_stranger(ask).get("/v1/exports/ondemand", params={"machine": "lumi"})
    assert refused.status_code == 403


async def test_an_export_holds_what_its_reader_may_see(db: Database, ask: Asker, settings: AccountingSettings) -> None:
    await some_usage(db, settings)
    await db.execute("UPDATE membership SET subject = 'other@example' WHERE project_id = 'p2'")
    ask.as_("pi", subject="other@example")
    assert [one["job_id"] for one in await table(ask, "usage")] == ["j2"]
    assert [one["SubAccountId"] for one in await table(ask, "focus")] == ["p2"]
    assert "j1" not in (await ask.get("/v1/exports/usage-records", params=DAYS)).text
    assert (await a_stranger(ask).get("/v1/exports/usage")).status_code == 403


async def test_an_export_that_cannot_be_written_is_refused_before_it_begins(
    db: Database, ask: Asker, settings: AccountingSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await some_usage(db, settings)
    monkeypatch.setattr(exports_api, "MOST_ROWS_OF_PARQUET", 2)
    many = await ask.get("/v1/exports/usage", params={**DAYS, "format": "parquet"})
    assert (many.status_code, many.json()["code"]) == (409, "too_many_rows")
    monkeypatch.setattr(exports_api, "_running", exports_api.MOST_AT_ONCE)
    busy = await ask.get("/v1/exports/usage", params=DAYS)
    assert (busy.status_code, busy.json()["code"]) == (503, "too_many_exports")
    wrong = await ask.get("/v1/exports/usage", params={**DAYS, "format": "xls"})
    assert wrong.status_code == 422


# Rules of the formats

texts = st.text(max_size=30)
moments = st.datetimes(timezones=st.just(UTC))
amounts = st.integers(0, 2**63 - 1)


@given(st.lists(st.builds(
    RunSegment, machine_id=texts, local_job_id=texts, submitted_at=moments, segment=st.integers(0, 9),
    revision=st.integers(0, 9), job_id=texts, project_id=texts, allocation_id=texts, resource=st.just(GPU),
    amount=amounts, rate_card=texts, state=texts, nodes=st.integers(0, 10**6), started_at=st.just(START),
    ended_at=st.datetimes(min_value=datetime(2026, 11, 22), timezones=st.just(UTC)), user=texts,  # noqa: DTZ001
    recorded_at=moments, factory_id=texts,
), max_size=1))  # fmt: skip
def test_whatever_a_site_reports_becomes_a_usage_record_that_can_be_read(segments: list[RunSegment]) -> None:
    assert usage_record.problems(usage_record.document(segments)) == []


def test_the_structural_check_finds_what_is_missing_misplaced_malformed_or_twice() -> None:
    one = RunSegment(
        "lumi", "1", START, 0, 0, "j1", "p1", "a1", GPU, 5, "card", "DONE", 1, START, START, "u-1", START, "f"
    )
    good = usage_record.document([one])
    assert usage_record.problems(good) == []
    for old, new in (
        ("<urf:Site>f</urf:Site>", ""),
        ("PT0S", "0"),
        ("<urf:GlobalUserId>u-1</urf:GlobalUserId>", "<urf:LocalUserId>u-1</urf:LocalUserId>"),
        ("JobUsageBlock", "JobBlock"),
        ("</urf:UsageRecords>", ""),
        ("2013/04", "2003/09"),
    ):
        assert usage_record.problems(good.replace(old, new)), (old, new)
    assert usage_record.problems(usage_record.document([one, one])) != []


@given(
    amounts, st.sampled_from([48, 64, 128]), st.sampled_from([None, 4, 8]), st.none() | st.decimals(0, 10**6, places=6)
)
def test_list_cost_is_the_unit_price_times_the_quantity_and_nothing_is_billed(
    amount: int, units: int, gpus: int | None, price: Decimal | None
) -> None:
    unit = None if price is None else "node-hour"
    use = focus.DayUse(
        date(2026, 11, 21),
        "f",
        "p1",
        "t",
        "a1",
        GPU,
        amount,
        units,
        gpus,
        unit,
        price,
        None if price is None else "SEK",
        "{}",
    )
    row = focus.row(use)
    assert list(row) == list(focus.COLUMNS)
    quantity, cost = row["PricingQuantity"], row["ListCost"]
    assert isinstance(quantity, Decimal)
    assert isinstance(cost, Decimal)
    assert abs(cost - (price or 0) * quantity) <= Decimal("0.0000005")
    assert row["BilledCost"] == 0
    assert (row["BillingPeriodStart"], row["BillingPeriodEnd"]) == (
        datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC),
    )  # fmt: skip


values = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(
    st.lists(
        st.fixed_dictionaries({"text": values, "number": st.none() | st.integers(-(2**63), 2**63 - 1)}), min_size=1
    )
)
def test_what_is_written_as_a_table_is_read_as_it_was(rows: list[dict[str, Any]]) -> None:
    names = ["text", "number"]
    read = list(csv.reader(io.StringIO(tables.csv_lines(names, rows), newline="")))
    assert read == [["" if row[name] is None else str(row[name]) for name in names] for row in rows]
    assert [json.loads(line) for line in tables.json_lines(names, rows).split("\n")[:-1]] == rows
    file = parquet.ParquetFile({"text": "text", "number": "integer"})
    file.add(rows)
    assert rows_of(file.written()) == rows


def test_a_worker_does_not_load_the_parquet_library() -> None:
    said = "import sys, aifn_accounting.app; print([name for name in sys.modules if name.startswith('arro3')])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
