"""What a request causes belongs to the caller's trace."""

from typing import Annotated

import pytest
from aifn_common.database import Database
from aifn_common.errors import NotFound
from aifn_common.kafka import Subscriptions
from aifn_common.metrics import Metrics
from aifn_common.outbox import announce
from aifn_common.service import Service
from aifn_common.settings import ServiceSettings
from aifn_common.telemetry import Answering, current_traceparent
from aifn_common.web import Tx, Who, make_router, settings_of
from aifn_events.placement import JobPlaced
from fastapi import Depends
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from tests.support.http import asking
from tests.support.settings import settings

TRACE = "0af7651916cd43dd8448eb211c80319c"

router = make_router()


@router.post("/announcements")
async def say(tx: Tx, who: Who, configured: Annotated[ServiceSettings, Depends(settings_of)]) -> dict[str, bool]:
    who.must("job.cancel", factory=configured.factory)
    await announce(tx, JobPlaced.example())
    return {"said": True}


@pytest.fixture
def traced() -> None:
    """Spans are made; they go nowhere."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())


async def test_what_a_post_announces_carries_the_callers_trace(traced: None, db: Database) -> None:
    service = Service(name="scheduler", package="aifn_common", hears=Subscriptions("scheduler"), routers=[router])
    async with asking(service, db, settings(ServiceSettings)) as asker:
        asker.as_("operator")
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        answer = await asker.post("/v1/announcements", headers=headers)
    assert answer.status_code == 200
    assert str(await db.fetchval("SELECT traceparent FROM outbox")).split("-")[1] == TRACE


def test_an_answer_is_a_span_of_the_callers_trace_and_ends_with_what_went_wrong(traced: None) -> None:
    answering = Answering("GET /v1/things", f"00-{TRACE}-b7ad6b7169203331-01")
    span = answering.__enter__()
    assert str(current_traceparent()).split("-")[1] == TRACE
    answering.__exit__(NotFound, NotFound("there is no thing"), None)
    assert current_traceparent() is None
    assert isinstance(span, ReadableSpan)
    assert span.end_time is not None
    assert span.status.description == "NotFound: there is no thing"
    assert [event.name for event in span.events] == ["exception"]


def test_answers_are_counted_by_route_method_and_status() -> None:
    reader = InMemoryMetricReader()
    metrics = Metrics(MeterProvider(metric_readers=[reader]).get_meter("test"))
    for status in (200, 200, 404):
        metrics.answers.add("/v1/things", "GET", status)
    data = reader.get_metrics_data()
    assert data is not None
    [metric] = [one for one in data.resource_metrics[0].scope_metrics[0].metrics if one.name == "aifn_http_answers"]
    told = [(point.attributes, point.value) for point in metric.data.data_points if isinstance(point, NumberDataPoint)]
    common = {"route": "/v1/things", "method": "GET"}
    assert told == [({**common, "status": 200}, 2), ({**common, "status": 404}, 1)]
