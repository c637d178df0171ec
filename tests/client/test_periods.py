"""Closing months and asking what a run would cost, from the terminal."""

import json
from collections.abc import Callable

import httpx
from aifn_client import period_models
from typer.testing import Result

from tests.client.conftest import Services, page, problem
from tests.client.samples import sample

Run = Callable[..., Result]


def test_a_month_is_closed_with_a_reason(services: Services, aifn: Run) -> None:
    closed = sample(period_models.Period, state="closed", holds_carried=2)
    services.answer("POST", "accounting/v1/periods/2026-10/close", httpx.Response(200, json=closed))
    result = aifn("period", "close", "2026-10", "--reason", "end of month", "--carry-holds")
    assert (result.exit_code, result.stderr) == (0, "")
    assert services.body == {"reason": "end of month", "carry_holds": True, "accept_gaps": False}
    assert "holds carried" in result.stdout


def test_a_refusal_to_close_says_what_to_do(services: Services, aifn: Run) -> None:
    refusal = problem(409, "holds_open", "2026-10 has 3 holds open: close it with `carry_holds`", holds=3)
    services.answer("POST", "accounting/v1/periods/2026-10/close", refusal)
    result = aifn("period", "close", "2026-10", "--reason", "end of month")
    assert result.exit_code == 1
    assert "holds_open" in result.stderr
    assert "carry_holds" in result.stderr


def test_a_month_that_does_not_hold_is_exit_status_1(services: Services, aifn: Run) -> None:
    services.answer(
        "GET", "accounting/v1/periods/2026-10/verify", page(sample(period_models.PeriodCheck, passed=False))
    )
    result = aifn("period", "verify", "2026-10")
    assert (result.exit_code, "failed" in result.stdout) == (1, True)


def test_a_quote_says_only_what_was_said(services: Services, aifn: Run) -> None:
    answer = httpx.Response(200, json=sample(period_models.Quote, gpu_hours="24.000"))
    services.answer("POST", "accounting/v1/rate-cards/quote", answer)
    result = aifn("rate", "quote", "lumi/lumi-g/gpu-time", "--seconds", "86400", "--devices", "1")
    assert (result.exit_code, "24.000" in result.stdout) == (0, True)
    assert services.body == {"resource": "lumi/lumi-g/gpu-time", "nodes": 1, "seconds": 86_400, "devices": 1}
    scripted = aifn("rate", "quote", "lumi/lumi-g/gpu-time", "--seconds", "86400", "--devices", "1", "--json")
    assert json.loads(scripted.stdout)["gpu_hours"] == "24.000"
