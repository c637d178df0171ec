"""Balances, months, forecasts, reports, the register, webhooks and exports as people and scripts see them."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from aifn_client import models, output_models
from typer.testing import Result

from tests.client import samples
from tests.client.conftest import Services, page, problem

Run = Callable[..., Result]
ONE = httpx.Response
PLACES: dict[type[models.View], tuple[str, str, str]] = {
    output_models.Sum: ("accounting", "get", "/v1/reports/usage"),
    output_models.Trace: ("accounting", "get", "/v1/jobs/{job_id}/trace"),
    output_models.MonthOfBooks: ("accounting", "get", "/v1/allocations/{allocation_id}/months/{month}"),
    output_models.Burn: ("accounting", "get", "/v1/allocations/{allocation_id}/burn"),
    output_models.RegisteredAward: ("accounting", "get", "/v1/register/awards"),
    output_models.Actor: ("accounting", "get", "/v1/register/actors"),
    output_models.Webhook: ("accounting", "get", "/v1/webhooks/{webhook_id}"),
    output_models.NewWebhook: ("accounting", "post", "/v1/webhooks"),
    output_models.Delivery: ("accounting", "get", "/v1/webhooks/{webhook_id}/deliveries"),
}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are made from the examples of accounting's own document."""
    monkeypatch.setattr(samples, "WHERE", samples.WHERE | PLACES)


@pytest.mark.parametrize("view", [*PLACES, models.UsageEvent], ids=lambda view: view.__name__)
def test_the_terminal_reads_what_accounting_says_it_shows(view: type[models.View]) -> None:
    assert view.of(samples.sample(view)).raw == samples.sample(view)


LISTS = [
    ("usage list --project p1", "accounting/v1/usage-events", models.UsageEvent),
    ("register awards", "accounting/v1/register/awards", output_models.RegisteredAward),
    ("register actors", "accounting/v1/register/actors", output_models.Actor),
    ("webhook list", "accounting/v1/webhooks", output_models.Webhook),
    ("webhook log hook-1", "accounting/v1/webhooks/hook-1/deliveries", output_models.Delivery),
    ("balance show aif-1", "accounting/v1/projects/aif-1/allocations", models.Allocation),
    ("statement show alloc-1", "accounting/v1/allocations/alloc-1/statement", models.Transfer),
]
THINGS = [
    ("statement month alloc-1 2026-11", "accounting/v1/allocations/alloc-1/months/2026-11", output_models.MonthOfBooks),
    ("burn show alloc-1", "accounting/v1/allocations/alloc-1/burn", output_models.Burn),
    ("usage trace j-1", "accounting/v1/jobs/j-1/trace", output_models.Trace),
    ("webhook show hook-1", "accounting/v1/webhooks/hook-1", output_models.Webhook),
]


@pytest.mark.parametrize(("words", "place", "view"), LISTS)
def test_a_list_is_a_table_for_people_and_the_objects_for_scripts(
    words: str, place: str, view: type[models.View], aifn: Run, services: Services
) -> None:
    services.answer("GET", place, page(samples.sample(view)))
    assert aifn(*words.split(), width=150).exit_code == 0
    assert json.loads(aifn(*words.split(), "--json").stdout) == [samples.sample(view)]


@pytest.mark.parametrize(("words", "place", "view"), THINGS)
def test_a_thing_is_shown_to_people_and_given_to_scripts_as_it_came(
    words: str, place: str, view: type[models.View], aifn: Run, services: Services
) -> None:
    services.answer("GET", place, ONE(200, json=samples.sample(view)))
    shown = aifn(*words.split(), width=150)
    assert shown.exit_code == 0
    assert shown.stdout.strip()
    assert json.loads(aifn(*words.split(), "--json").stdout) == samples.sample(view)


def _report(*keys: str, then: str | None = None) -> ONE:
    line = samples.sample(output_models.Sum)
    said = {"by": "job", "since": "2026-11-01", "until": "2026-12-01", "only": {}, "total": [line | {"key": ""}]}
    return ONE(200, json={**said, "items": [line | {"key": key} for key in keys], "next": then})


def test_a_report_of_several_pages_is_one_table_with_its_total_and_filters_are_passed_on(
    aifn: Run, services: Services
) -> None:
    services.answer("GET", "accounting/v1/reports/usage", _report("first", then="more"), _report("second"))
    result = aifn("usage", "report", "--by", "job", "--only", "pool:union", "--only", "mode:x", width=150)
    assert result.exit_code == 0
    assert "first" in result.stdout
    assert "second" in result.stdout
    assert "in all" in result.stdout
    asked = services.requests[-1].url.params
    assert (asked["by"], asked.get_list("only"), asked["after"]) == ("job", ["pool:union", "mode:x"], "more")


def test_a_report_of_nothing_says_so(aifn: Run, services: Services) -> None:
    services.answer("GET", "accounting/v1/reports/usage", _report())
    assert "nothing was used" in aifn("usage", "report").stderr


def test_a_forecast_is_told_in_words_with_its_band(aifn: Run, services: Services) -> None:
    said = samples.sample(output_models.Burn) | {
        "days": [{"day": "2026-11-20", "used": 5, "left": 95}],
        "forecast": {
            "method": "ETS(A,N,N)", "days_seen": 9, "level": 5, "ahead": [], "exhausted_on": "2026-12-09",
            "exhausted_earliest": "2026-12-05", "exhausted_latest": None,
        },
    }  # fmt: skip
    services.answer("GET", "accounting/v1/allocations/a/burn", ONE(200, json=said))
    shown = aifn("burn", "show", "a").stdout
    assert "used up on 2026-12-09" in shown
    assert "between 2026-12-05 and after" in shown
    services.answer("GET", "accounting/v1/allocations/a/burn", ONE(200, json=said | {"forecast": None}))
    assert "no forecast" in aifn("burn", "show", "a").stdout


def test_the_secret_of_a_webhook_is_shown_once_and_a_replay_is_asked_for(aifn: Run, services: Services) -> None:
    made = samples.sample(output_models.NewWebhook)
    services.answer("POST", "accounting/v1/webhooks", ONE(201, json=made))
    result = aifn("webhook", "add", "https://portal.example.eu/x", "--project", "p1", width=120)
    assert made["secret"] in result.stdout
    assert "not shown again" in result.stderr
    assert services.body == {"url": "https://portal.example.eu/x", "project_id": "p1"}
    plain = samples.sample(output_models.Webhook)
    services.answer("POST", "accounting/v1/webhooks/hook-1/secret", ONE(200, json=made))
    assert made["secret"] in aifn("webhook", "secret", "hook-1", width=120).stdout
    services.answer("POST", "accounting/v1/webhooks/hook-1/replay", ONE(200, json=plain))
    assert aifn("webhook", "replay", "hook-1", "--after", "MTctMw").exit_code == 0
    assert services.body == {"after": "MTctMw"}
    services.answer("POST", "accounting/v1/webhooks/hook-1/resume", ONE(200, json=plain))
    assert aifn("webhook", "resume", "hook-1").exit_code == 0
    services.answer("DELETE", "accounting/v1/webhooks/hook-1", ONE(204))
    assert aifn("webhook", "remove", "hook-1").stdout == "hook-1 is removed\n"


EXPORTS = [
    ("usage --format parquet --since 2026-11-01", "usage", {"format": "parquet", "since": "2026-11-01"}),
    ("focus --until 2026-12-01", "focus", {"format": "csv", "until": "2026-12-01"}),
    ("usage-records", "usage-records", {}),
    ("ondemand lumi --unit node-hours", "ondemand", {"machine": "lumi", "unit": "node-hours"}),
]


@pytest.mark.parametrize(("words", "place", "asked"), EXPORTS)
def test_an_export_is_written_to_a_file_or_to_the_output_byte_by_byte(
    words: str, place: str, asked: dict[str, str], aifn: Run, services: Services, tmp_path: Path
) -> None:
    content = b"PAR1\x00\xff\r\n"
    services.answer("GET", f"accounting/v1/exports/{place}", ONE(200, content=content))
    target = tmp_path / "file"
    result = aifn("export", *words.split(), "--out", str(target))
    assert result.exit_code == 0, result.stderr
    assert target.read_bytes() == content
    assert dict(services.requests[-1].url.params) == asked
    assert aifn("export", *words.split()).stdout_bytes == content


def test_an_export_that_is_refused_leaves_the_old_file_and_nothing_beside_it(
    aifn: Run, services: Services, tmp_path: Path
) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    refusal = problem(409, "too_many_rows", "more than 5 rows: ask for fewer days")
    services.answer("GET", "accounting/v1/exports/usage", refusal)
    result = aifn("export", "usage", "--out", str(target))
    assert result.exit_code == 1
    assert "more than 5 rows" in result.stderr
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["file"]
    assert target.read_text() == "old"
    services.answer("GET", "accounting/v1/exports/usage", ONE(200, content=b"new"))
    assert aifn("export", "usage", "--out", str(tmp_path / "no" / "folder")).exit_code == 1
