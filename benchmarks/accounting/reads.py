"""Balances over HTTP: 100,000 allocations, tokens of the development issuer, the service as it is deployed."""

import contextlib
import json
import os
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
import uvloop
from aifn_accounting.app import service
from aifn_common.database import Database, connect, transaction
from aifn_common.migrations import migrate
from aifn_local.stack_state import StackState
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.accounting import load
from benchmarks.accounting.programs import Program, api, bare, burnt, issuer, server_pid
from benchmarks.figures import Figure, compare

ALLOCATIONS = int(os.environ.get("AIFN_BENCH_ALLOCATIONS", "100000"))
REQUESTS = int(os.environ.get("AIFN_BENCH_REQUESTS", "20000"))
CONNECTIONS = 32
PAGES = 200
SELECTS = 3000
WANTED_RATE = 2_000
WANTED_PAGE_MS = 50
START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2028, 1, 1, tzinfo=UTC)
_RESOURCES = ("lumi/lumi-g/gpu-time", "lumi/lumi-c/node-time")

_BOOKS = """
INSERT INTO resource (id, machine_id, partition_id, unit, units_per_node, devices_per_node, gpus_per_node,
    cores_per_node, nodes, factory_ids, revision)
VALUES ('lumi/lumi-g/gpu-time', 'lumi', 'lumi-g', 'slice-second', 64, 8, 4, 64, 2978, '{lumi-aif}', 0),
    ('lumi/lumi-c/node-time', 'lumi', 'lumi-c', 'slice-second', 128, NULL, NULL, 128, 2048, '{lumi-aif}', 0);
INSERT INTO project (id, title, factory_id, created_by, created_at)
SELECT 'q' || i, 'Project ' || i, 'lumi-aif', 'bench', '2026-01-01Z' FROM generate_series(0, {last}) i;
INSERT INTO member_project (project_id, revision, title, factory_id, closed)
SELECT id, 0, title, factory_id, false FROM project;
INSERT INTO membership (project_id, subject, role) SELECT id, 'person-' || id, 'pi' FROM project;
INSERT INTO account (owner, role, resource)
SELECT 'alloc-' || i || '-' || k, role, (ARRAY['{gpu}', '{cpu}'])[k]
FROM generate_series(0, {last}) i, generate_series(1, 2) k,
    unnest(ARRAY['available', 'held', 'consumed', 'overrun']) role;
INSERT INTO account (owner, role, resource) VALUES ('pool:union', 'union_pool', '{gpu}'),
    ('pool:union', 'union_pool', '{cpu}');
INSERT INTO allocation (id, project_id, resource, pool, starts_at, ends_at, reason, granted_by, granted_at, granted,
    available, available_account, held_account, consumed_account, overrun_account)
SELECT owner, 'q' || split_part(owner, '-', 2), resource, 'union', '2026-01-01Z', '2028-01-01Z', 'benchmark', 'bench',
    '2026-01-01Z', 10 ^ 12, 10 ^ 12, max(id) FILTER (WHERE role = 'available'), max(id) FILTER (WHERE role = 'held'),
    max(id) FILTER (WHERE role = 'consumed'), max(id) FILTER (WHERE role = 'overrun')
FROM account WHERE owner LIKE 'alloc-%' GROUP BY owner, resource ORDER BY owner, resource;
INSERT INTO ledger_transfer (allocation_number, kind, source, target, resource, amount, recorded_at)
SELECT a.number, 'grant', p.id, a.available_account, a.resource, a.granted, a.granted_at
FROM allocation a JOIN account p ON p.owner = 'pool:union' AND p.resource = a.resource
"""


@dataclass(frozen=True)
class Costs:
    """A run of requests, with what each took of a CPU, in milliseconds."""

    taken: load.Taken
    service_ms: float
    server_ms: float

    def __str__(self) -> str:
        return (
            f"{self.taken.rate:,.0f} requests/s, p50 {self.taken.at(50):.1f} ms, p99 {self.taken.at(99):.1f} ms; CPU of"
            f" each: service {self.service_ms:.3f} ms, PostgreSQL {self.server_ms:.3f} ms,"
            f" asker {self.taken.own_cpu / len(self.taken.waits) * 1e3:.3f} ms"
        )


def measure(state: StackState) -> list[Figure]:
    """Requests a second of balances of single projects, what they cost, and the time of a page of 100 allocations.

    Beside them, in the same minute and with the same asker: a FastAPI route without token and database, and `SELECT 1`.
    """
    url = uvloop.run(prepare(state.postgres_url, ALLOCATIONS))
    figures = []
    with issuer() as login:
        environment = {
            "AIFN_DATABASE_URL": url,
            "AIFN_KAFKA": state.kafka_bootstrap,
            "AIFN_OIDC_ISSUER": f"http://127.0.0.1:{login.port}",
        }
        projects = ALLOCATIONS // 2
        people = [f"person-q{number * 7919 % projects}" for number in range(min(1000, projects))]
        tokens = {subject: token(login, "newcomer", subject) for subject in people}
        for count in (1, 2):
            with contextlib.ExitStack() as stack:
                running = [stack.enter_context(api(number, environment)) for number in range(count)]
                ours = _ask_all(running, [balances(one.port, tokens) for one in running], server_pid(state))
                if count == 1:
                    figures.append(_page(running[0].port, token(login, "auditor")))
            with contextlib.ExitStack() as stack:
                running = [stack.enter_context(bare(number)) for number in range(count)]
                asked = [
                    [load.get(one.port, f"/projects/{who}/balances", tokens[who]) for who in people] for one in running
                ]
                theirs = _ask_all(running, asked, None)
            figures += _figures(count, ours, theirs, uvloop.run(_select_one(url)))
    return figures


def _ask_all(running: list[Program], asked: list[list[bytes]], postgres: int | None) -> Costs:
    """Each process is asked its share of `REQUESTS`, after a while to warm up."""
    count = len(running)
    ports = [one.port for one in running]
    shares = [_share(some[number::count], REQUESTS // count) for number, some in enumerate(asked)]
    uvloop.run(load.ask_each(ports, [some[:1000] for some in shares], connections=CONNECTIONS // count))
    service, server = sum(one.seconds_of_cpu() for one in running), burnt(postgres) if postgres else 0.0
    taken = uvloop.run(load.ask_each(ports, shares, connections=CONNECTIONS // count))
    service, server = (
        sum(one.seconds_of_cpu() for one in running) - service,
        burnt(postgres) - server if postgres else 0.0,
    )
    return Costs(taken, service / len(taken.waits) * 1e3, server / len(taken.waits) * 1e3)


def _figures(count: int, ours: Costs, bare_route: Costs, select_ms: float) -> list[Figure]:
    words = f"{count} process" + ("es" if count > 1 else "")
    print(f"reads, {words}: balances: {ours}")
    print(f"reads, {words}: a bare FastAPI route: {bare_route}")
    return [
        compare(f"balance GET, {words}", ours.taken.rate, "requests/s", "wanted on 2 cores", WANTED_RATE),
        compare(
            f"balance GET, {words}, beside a bare route",
            ours.taken.rate,
            "requests/s",
            "bare FastAPI route",
            bare_route.taken.rate,
        ),
        compare(f"balance GET, {words}, p99", ours.taken.at(99), "ms", "bare FastAPI route", bare_route.taken.at(99)),
        compare(
            f"balance GET, {words}, CPU of the service",
            ours.service_ms,
            "ms",
            "bare FastAPI route",
            bare_route.service_ms,
        ),
        compare(f"balance GET, {words}, CPU of PostgreSQL", ours.server_ms, "ms", "SELECT 1", select_ms),
    ]


async def _select_one(url: str) -> float:
    """What the smallest statement takes of PostgreSQL's CPU, in milliseconds."""
    connection = await asyncpg.connect(url)
    try:
        pid = await connection.fetchval("SELECT pg_backend_pid()")
        before = burnt(pid)
        for _ in range(SELECTS):
            await connection.fetchval("SELECT 1")
        return (burnt(pid) - before) / SELECTS * 1e3
    finally:
        await connection.close()


def balances(port: int, tokens: dict[str, str]) -> list[bytes]:
    """Each person asks for their own project."""
    return [
        load.get(port, f"/v1/projects/{subject.removeprefix('person-')}/allocations", signed)
        for subject, signed in tokens.items()
    ]


def _share(asked: list[bytes], count: int) -> list[bytes]:
    return (asked * (count // len(asked) + 1))[:count]


def _page(port: int, signed: str) -> Figure:
    """One page of 100 after another: the service's own clock, from the whole request to the whole answer."""
    asked = [load.get(port, "/v1/allocations?limit=100", signed)] * PAGES
    uvloop.run(load.ask(port, asked[:5], connections=1))
    before = _answered(port, "/v1/allocations")
    taken = uvloop.run(load.ask(port, asked, connections=1))
    after = _answered(port, "/v1/allocations")
    mean = (after[0] - before[0]) / (after[1] - before[1]) * 1e3
    print(
        f"reads: a page of 100 allocations: server time {mean:.1f} ms on average; with the way over the loopback"
        f" p50 {taken.at(50):.1f} ms, p99 {taken.at(99):.1f} ms"
    )
    return compare("page of 100 allocations, server time", mean, "ms", "at most", WANTED_PAGE_MS)


def _answered(port: int, route: str) -> tuple[float, float]:
    """What the service itself has measured of a route: seconds, and answers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [one for family in families if family.name == "aifn_http_seconds" for one in family.samples]
    of = {one.name: one.value for one in samples if one.labels["route"] == route}
    return of["aifn_http_seconds_sum"], of["aifn_http_seconds_count"]


def token(login: Program, persona: str, subject: str | None = None) -> str:
    """A token for somebody."""
    words = {"persona": persona} | ({} if subject is None else {"subject": subject})
    body = urllib.parse.urlencode(words).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{login.port}/token", data=body) as answer:
        return str(json.load(answer)["access_token"])


async def prepare(postgres: str, allocations: int) -> str:
    """A database with so many allocations, two in each project; returns its address."""
    admin = await connect(postgres, connections=2)
    await admin.execute("DROP DATABASE IF EXISTS bench_reads")
    await admin.execute("CREATE DATABASE bench_reads")
    await admin.close()
    url = urllib.parse.urlunsplit(urllib.parse.urlsplit(postgres)._replace(path="/bench_reads"))
    db: Database = await connect(url, connections=2)
    try:
        await migrate(db, *service.packages)
        async with transaction(db) as tx:
            words = _BOOKS.replace("{last}", str(allocations // 2 - 1))
            for name, resource in zip(("{gpu}", "{cpu}"), _RESOURCES, strict=True):
                words = words.replace(name, resource)
            await tx.execute(words, timeout=900)
        await db.execute("VACUUM ANALYZE")
    finally:
        await db.close()
    return url
