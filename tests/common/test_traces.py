"""What a request causes belongs to the caller's trace."""

from typing import Annotated

import pytest
from aifn_common.database import Database
from aifn_common.kafka import Subscriptions
from aifn_common.outbox import announce
from aifn_common.service import Service
from aifn_common.settings import ServiceSettings
from aifn_common.web import Tx, Who, make_router, settings_of
from aifn_events.placement import JobPlaced
from fastapi import Depends
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

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
