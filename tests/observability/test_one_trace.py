"""One trace from the request for a job to its ledger entry, read from the spans that real processes export."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from aifn_local import stack, story
from aifn_local.factory import Factory, Site
from aifn_local.fleet import Fleet
from aifn_local.people import Person, sign_in
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.waiting import until

pytestmark = [pytest.mark.journey, pytest.mark.kafka]

PROCESSES = (
    "issuer",
    "registry-api",
    "registry-worker",
    "accounting-api",
    "accounting-worker",
    "scheduler-api",
    "scheduler-worker",
    "siteagent-lumi",
)
TRACE = "5e8c1d2a9b3f4e60a1b2c3d4e5f60718"
CALLER = "a1b2c3d4e5f60718"


@dataclass(frozen=True)
class Seen:
    """A span as it was exported: ids as hexadecimal text, `links` to other spans."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: tuple[str, ...]


@dataclass
class Collector:
    """Takes spans as an OpenTelemetry collector does, over HTTP."""

    port: int = 0
    spans: list[Seen] = field(default_factory=list)

    def take(self, body: bytes) -> None:
        """Read one export."""
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(a.value.string_value for a in group.resource.attributes if a.key == "service.name")
            self.spans += [
                Seen(
                    service.removeprefix("aifn-"),
                    span.name,
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    tuple(link.span_id.hex() for link in span.links),
                )
                for scope in group.scope_spans
                for span in scope.spans
            ]

    def of(self, trace_id: str) -> list[Seen]:
        """The spans of one trace."""
        return [span for span in list(self.spans) if span.trace_id == trace_id]

    def names(self, trace_id: str) -> set[tuple[str, str]]:
        """Service and name of each."""
        return {(span.service, span.name) for span in self.of(trace_id)}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a port of its own."""
    made = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            made.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join()


@asynccontextmanager
async def traced_factory(state: stack.StackState, logs: Path, collector: Collector) -> AsyncIterator[Factory]:
    """A factory of real processes that export every span of a sampled trace, and begin none of their own."""
    factory = Factory.on(state, "lumi-aif", [Site("lumi", {"lumi-g": 2, "lumi-c": 2})])
    await factory.prepare()
    fleet = Fleet(logs)
    more = {"AIFN_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}", "AIFN_TRACE_RATIO": "0"}
    more |= {"OTEL_BSP_SCHEDULE_DELAY": "200", "AIFN_CAPACITY_REPORT_SECONDS": "1"}
    try:
        for program in factory.programs():
            if program.name in PROCESSES:
                fleet.start(replace(program, env={**program.env, **more}))
        await fleet.wait_ready()
        yield factory
    finally:
        await asyncio.to_thread(fleet.stop)


async def submit(http: httpx.AsyncClient, factory: Factory, pi: Person, project: str) -> str:
    """Ask for a job, in a trace that the caller has begun and sampled; returns its id."""
    body = {"project_id": project, "partition_id": "lumi-c", "cores": 128, "walltime_seconds": 60, "script": "sleep 1"}
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "authorization": f"Bearer {pi._token}"}
    answer = await http.post(f"{factory.url('scheduler')}/v1/jobs", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["job_id"])


async def charged(factory: Factory, job_id: str) -> int:
    """Ledger entries that charge a job's usage."""
    accounting = await asyncpg.connect(factory.databases["accounting"])
    try:
        entries = "SELECT count(*) FROM ledger_transfer t JOIN usage_record u ON u.number = t.usage_number"
        return int(await accounting.fetchval(f"{entries} WHERE u.job_id = $1", job_id))
    finally:
        await accounting.close()


async def test_one_trace_leads_from_the_request_for_a_job_to_its_ledger_entry(
    tmp_path: Path, collector: Collector
) -> None:
    with stack.running(heap_mb=320) as state:
        async with traced_factory(state, tmp_path, collector) as factory, httpx.AsyncClient(timeout=30) as http:
            manager, pi = await sign_in(http, factory, "factory-admin"), await sign_in(http, factory, "pi", "mari")
            project = await story.open_cpu_project(manager, pi.subject)
            await pi.eventually("accounting", f"/v1/projects/{project}", "the project")
            job_id = await _as_soon_as_the_scheduler_knows(lambda: submit(http, factory, pi, project))
            await until(lambda: _is_charged(factory, job_id), seconds=90, what="the job is charged")
            wanted = {
                ("scheduler", "POST /v1/jobs"),
                ("scheduler", "scheduler place"),
                ("accounting", "accounting-job-placed-v1 handle"),
                ("scheduler", "scheduler-budget-held-v1 handle"),
                ("siteagent", "siteagent-lumi-job-dispatched-v1 handle"),
                ("siteagent", "siteagent follow"),
                ("scheduler", "scheduler-job-ended-v1 handle"),
                ("accounting", "accounting-job-closed-v1 handle"),
                ("accounting", "accounting-usage-reported-v1 handle"),
            }
            await until(lambda: wanted <= collector.names(TRACE), seconds=30, what=f"of {wanted} all are exported")
    spans = collector.of(TRACE)
    # Every span hangs on another of the same trace, and the first on the caller's.
    known = {span.span_id for span in spans} | {CALLER}
    assert {span.parent_id for span in spans} <= known
    assert {span.name for span in spans if span.parent_id == CALLER} == {"POST /v1/jobs"}
    # From the ledger entry back to the request, hop by hop; FastAPI has a span of its own inside of ours.
    by_id = {span.span_id: span for span in spans}
    way = [next(span for span in spans if span.name == "accounting-usage-reported-v1 handle")]
    while way[-1].parent_id in by_id:
        way.append(by_id[way[-1].parent_id])
    assert [span.name for span in way if not span.name.startswith("fastapi.")] == [
        "accounting-usage-reported-v1 handle",
        "siteagent follow",
        "siteagent-lumi-job-dispatched-v1 handle",
        "scheduler-budget-held-v1 handle",
        "accounting-job-placed-v1 handle",
        "scheduler place",
        "POST /v1/jobs",
    ]
    # Where one piece of work was done for many, it is linked.
    assert all(span.links for span in spans if span.name in ("scheduler place", "siteagent follow"))
    assert {span.service for span in spans} == {"scheduler", "accounting", "siteagent"}


async def _is_charged(factory: Factory, job_id: str) -> bool:
    return await charged(factory, job_id) > 0


async def _as_soon_as_the_scheduler_knows(submit: Any) -> str:
    found: list[str] = []

    async def tried() -> bool:
        try:
            found.append(await submit())
        except AssertionError as refused:
            # The project, its allocation and the capacity of the machine are on their way.
            if '"code"' not in str(refused):
                raise
            await asyncio.sleep(0.5)
        return bool(found)

    await until(tried, seconds=60, what="the job is taken")
    return found[0]
