"""The examples in accounting's OpenAPI document run as they stand, and what is answered fits the document."""

import json
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest
from aifn_accounting.actions import exchange
from aifn_accounting.api import books, corrections, exports, reports, usage_feed, webhooks
from aifn_accounting.app import service
from aifn_accounting.domain.exchange import Exchange
from aifn_accounting.settings import AccountingSettings
from aifn_accounting.store import webhooks as webhook_store
from aifn_accounting.webhook_views import WEBHOOK_ID
from aifn_common import clock
from aifn_common.answering import describe_api
from aifn_common.database import Database, transaction
from aifn_events.vocabulary import AllocationId
from fastapi import APIRouter
from pydantic import SecretStr, TypeAdapter

from tests.accounting.make import GPU, charge, grant, know_machine, used
from tests.support.http import asking
from tests.support.openapi import Call, calls

DOCUMENT: dict[str, Any] = json.loads(json.dumps(describe_api(service).openapi()))
PROJECT, JOB = "aif-2026-0117", "lumi-aif-0198c7d2"
ALLOCATION: AllocationId = TypeAdapter(AllocationId).json_schema()["examples"][0]
ADMINISTRATOR = ["factory-admin:factory:lumi-aif", "auditor:federation:*"]


def _paths(routers: list[APIRouter]) -> set[tuple[str, str]]:
    found = set()
    for router in routers:
        for route in router.routes:
            found |= {(method.lower(), route.path) for method in route.methods}  # type: ignore[attr-defined]
    return found


MINE = _paths([books.router, corrections.router, usage_feed.router, reports.router, exports.router, webhooks.router])
EXAMPLES: list[tuple[Call, dict[str, Any]]] = [
    (call, DOCUMENT["paths"][path][call.method])
    for path in DOCUMENT["paths"]
    for call in calls({**DOCUMENT, "paths": {path: DOCUMENT["paths"][path]}})
    if (call.method, path) in MINE
]


async def as_the_examples_say(db: Database, settings: AccountingSettings) -> None:
    """A database in which what the examples name is there."""
    await know_machine(db)
    await grant(db, PROJECT, award_id="award-0198c7d3")
    await db.execute("UPDATE allocation SET id = $1", ALLOCATION)
    await charge(db, settings, used(JOB, 192_000, PROJECT))
    with clock.held(clock.Moment(datetime(2026, 10, 5, tzinfo=UTC))):
        async with transaction(db) as tx:
            swap = Exchange("lumi-aif", "bsc-aif", "mn5/acc/gpu-time", 60, GPU, 2, 3)
            await exchange.settle_home(tx, "h1", swap, agreement="2026-7", job_id=JOB, allocation_id=ALLOCATION)
    async with transaction(db) as tx:
        await webhook_store.add(
            tx,
            WEBHOOK_ID,
            owner="a",
            through="role",
            project_id=None,
            factory_id="lumi-aif",
            url="https://portal.example.eu/aifn",
        )


def test_there_is_an_example_for_every_route() -> None:
    assert len(EXAMPLES) == len(MINE) >= 30


@pytest.mark.parametrize(("call", "operation"), EXAMPLES, ids=lambda one: str(one) if isinstance(one, Call) else "")
async def test_an_example_runs_and_its_answer_fits_the_document(
    db: Database, settings: AccountingSettings, call: Call, operation: dict[str, Any]
) -> None:
    await as_the_examples_say(db, settings)
    told = settings.model_copy(update={"webhook_key": SecretStr("a-key-of-webhooks"), "stream_seconds": 0.0})
    async with asking(service, db, told) as ask:
        ask.as_("factory-admin", entitlements=ADMINISTRATOR)
        body = call.body
        if call.method == "post" and call.path == "/v1/projects":
            body = {name: value for name, value in call.body.items() if name != "project_id"}
        answer = await ask.request(call.method, call.path, params=call.query, headers=call.headers, json=body)
    assert str(answer.status_code) in operation["responses"], f"{call}: {answer.status_code} {answer.text}"
    content = operation["responses"][str(answer.status_code)].get("content", {})
    kind = answer.headers.get("content-type", "").partition(";")[0]
    assert not content or kind in content, f"{kind} is none of {list(content)}"
    if kind == "application/json":
        schema = {**content[kind]["schema"], "components": DOCUMENT["components"]}
        jsonschema.validate(answer.json(), schema)
