"""The plumbing when processes and servers die: workers killed, drained, servers stopped and started again."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aifn_common.database import Database, connect, transaction
from aifn_common.outbox import Relay, announce, waiting
from aifn_common.service import Worker, prepare
from aifn_common.topics import create_topics
from aifn_events.base import Event
from aifn_events.placement import BudgetHeld, JobPlaced
from aifn_events.usage import UsageCharged, UsageReported
from aifn_local import stack

from tests.support.backends import Backends
from tests.support.children import children
from tests.support.http import asking
from tests.support.kafka import read_all, send
from tests.support.settings import settings
from tests.support.victim import VictimSettings, effects, make_victim
from tests.support.waiting import until

pytestmark = pytest.mark.kafka


def placed(name: str, **more: Any) -> JobPlaced:
    return JobPlaced.example(job_id=name, **more)


def used(name: str, amount: int) -> UsageReported:
    return UsageReported.example(local_job_id=name, amounts={"lumi/lumi-g/gpu-time": amount}, job_id=name)


async def has_effects(db: Database, names: list[str]) -> bool:
    return sorted(await effects(db)) == sorted(names)


async def total(db: Database) -> int:
    return int(await db.fetchval("SELECT amount FROM total"))


async def everything_was_said_once(kafka: str, db: Database, jobs: list[str], records: list[str]) -> None:
    """Effects, charges and announcements: none lost, none doubled (a repeated message has a repeated id)."""
    assert sorted(await effects(db)) == sorted(jobs)
    assert await db.fetchval("SELECT array_agg(what ORDER BY what) FROM charge") == (sorted(records) or None)
    await until(lambda: _outbox_is_empty(db))
    held = {_attribute(one, "ce_id"): one for one in await read_all(kafka, BudgetHeld.topic)}
    assert len(held) == len(jobs)
    charged = {_attribute(one, "ce_id") for one in await read_all(kafka, UsageCharged.topic)}
    assert len(charged) == len(records)
    assert await db.fetchval("SELECT count(*) FROM dead_letter") == 0


async def _outbox_is_empty(db: Database) -> bool:
    return await waiting(db) == 0


def _attribute(record: Any, name: str) -> bytes:
    return bytes(dict(record.headers)[name])


@pytest.mark.parametrize("path", ["single", "batch"])
async def test_a_worker_killed_between_database_commit_and_offset_commit_doubles_nothing(
    kafka: str, url: str, victim_db: Database, tmp_path: Path, path: str
) -> None:
    marker = tmp_path / "died"
    events: list[Event] = [placed("a"), placed("b")] if path == "single" else [used("a", 2), used("b", 3)]
    await send(kafka, *events)
    async with children(
        tmp_path, AIFN_DATABASE_URL=url, AIFN_KAFKA=kafka, AIFN_DIE_AT_COMMIT=str(marker), VICTIM_NAME=f"victim-{path}"
    ) as nursery:
        first = nursery.start()
        assert await first.end() == -signal.SIGKILL, first.tail()
        table = "effect" if path == "single" else "charge"
        assert await victim_db.fetchval(f"SELECT count(*) FROM {table}") > 0
        nursery.start()
        names = ["a", "b"]
        if path == "single":
            await until(lambda: has_effects(victim_db, names), seconds=40)
        else:
            await until(lambda: _total_is(victim_db, 5), seconds=40)
        await send(kafka, placed("last"))
        await until(lambda: _has_effect(victim_db, "last"), seconds=40)
        jobs = [*names, "last"] if path == "single" else ["last"]
        await everything_was_said_once(kafka, victim_db, jobs, [] if path == "single" else names)


async def _total_is(db: Database, amount: int) -> bool:
    return await total(db) == amount


async def _has_effect(db: Database, name: str) -> bool:
    return name in await effects(db)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_who_comes_back_under_the_same_name_takes_over_at_once_and_nobody_waits_for_the_session_to_expire(
    kafka: str, url: str, victim_db: Database, tmp_path: Path, how: signal.Signals
) -> None:
    # A session is longer than any wait of this test: what waited for its end would not be seen to end.
    patient = {"AIFN_KAFKA_SESSION_SECONDS": "300", "AIFN_KAFKA_HEARTBEAT_SECONDS": "1"}
    async with children(
        tmp_path, AIFN_DATABASE_URL=url, AIFN_KAFKA=kafka, VICTIM_NAME=f"victim-named-{how.name.lower()}", **patient
    ) as nursery:
        # As in a StatefulSet: two pods, of which one is replaced, the old process first.
        await nursery.start(AIFN_INSTANCE="victim-1").ready()
        old = await nursery.start(AIFN_INSTANCE="victim-0", AIFN_HANDLER_SECONDS="0.2").ready()
        before = [f"before-{number}" for number in range(12)]
        await send(kafka, *(placed(name, project_id=name) for name in before), *(used(name, 1) for name in before))
        await until(lambda: _some_effects(victim_db), seconds=40)
        old.process.send_signal(how)
        assert await old.end() == (0 if how is signal.SIGTERM else -signal.SIGKILL), old.tail()
        await nursery.start(AIFN_INSTANCE="victim-0").ready()
        after = [f"after-{number}" for number in range(12)]
        await send(kafka, *(placed(name, project_id=name) for name in after), *(used(name, 1) for name in after))
        await until(lambda: has_effects(victim_db, before + after), seconds=60)
        await until(lambda: _total_is(victim_db, 24), seconds=60)
        await everything_was_said_once(kafka, victim_db, before + after, before + after)


async def _some_effects(db: Database) -> bool:
    return await effects(db) != []


async def test_a_worker_told_to_stop_finishes_its_handler_commits_and_ends_with_status_0(
    kafka: str, url: str, victim_db: Database, tmp_path: Path
) -> None:
    await send(kafka, placed("slow"), used("slow", 3))
    async with children(
        tmp_path, AIFN_DATABASE_URL=url, AIFN_KAFKA=kafka, AIFN_HANDLER_SECONDS="3", VICTIM_NAME="victim-drain"
    ) as nursery:
        child = await nursery.start().ready()
        await until(lambda: _in_a_handler(victim_db))
        assert await effects(victim_db) == []
        child.process.send_signal(signal.SIGTERM)
        assert await child.end() == 0, child.tail()
        assert await effects(victim_db) == ["slow"]
        assert await total(victim_db) == 3
        # The offset was committed too: a second worker gets nothing to do again.
        await nursery.start(AIFN_HANDLER_SECONDS="0").ready()
        await send(kafka, placed("last"))
        await until(lambda: has_effects(victim_db, ["slow", "last"]))
    assert await victim_db.fetchval("SELECT count(*) FROM inbox") == 2


async def _in_a_handler(db: Database) -> bool:
    idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
    return bool(await db.fetchval(idle) == 2)


async def test_one_of_two_workers_leads_and_the_other_takes_over_when_it_is_killed(
    kafka: str, url: str, victim_db: Database, tmp_path: Path
) -> None:
    leaders = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND database = (\
SELECT oid FROM pg_database WHERE datname = current_database())"
    async with children(tmp_path, AIFN_DATABASE_URL=url, AIFN_KAFKA=kafka) as nursery:
        first = await nursery.start().ready()
        await until(lambda: _one_row(victim_db, leaders))
        leader = await victim_db.fetchval(leaders)
        await nursery.start().ready()
        async with transaction(victim_db) as tx:
            await announce(tx, placed("before"))
        await until(lambda: _outbox_is_empty(victim_db))
        assert [row["pid"] for row in await victim_db.fetch(leaders)] == [leader]
        first.process.kill()
        async with transaction(victim_db) as tx:
            await announce(tx, placed("after"))
        await until(lambda: _outbox_is_empty(victim_db), seconds=40)
        assert [row["pid"] for row in await victim_db.fetch(leaders)] != [leader]
    said = [_attribute(one, "ce_id") for one in await read_all(kafka, JobPlaced.topic)]
    assert len(said) == len(set(said)) == 2


async def _one_row(db: Database, statement: str) -> bool:
    return len(await db.fetch(statement)) == 1


async def test_a_relay_that_dies_between_sending_and_deleting_says_the_same_again_in_the_same_order(
    kafka: str, url: str, victim_db: Database
) -> None:
    events = [placed(f"job-{n}", project_id=f"p-{n % 3}") for n in range(30)]
    async with transaction(victim_db) as tx:
        for event in events:
            await announce(tx, event)

    def relay(db: Database) -> Relay:
        return Relay(db, settings(VictimSettings, kafka=kafka), source="urn:aifn:lumi-aif:victim")

    class Deaf:
        """A database in which the deletion never arrives."""

        async def fetch(self, *given: Any) -> Any:
            return await victim_db.fetch(*given)

        async def execute(self, *_: Any) -> None:
            raise asyncio.CancelledError

    with contextlib.suppress(asyncio.CancelledError):
        await relay(Deaf()).run()  # type: ignore[arg-type]
    assert await waiting(victim_db) == 30
    task = asyncio.create_task(relay(victim_db).run())
    await until(lambda: _outbox_is_empty(victim_db))
    task.cancel()
    records = await read_all(kafka, JobPlaced.topic)
    assert len(records) == 60
    for number in range(3):
        expected = [event.id.encode() for event in events if event.project_id == f"p-{number}"]
        told = [_attribute(one, "ce_id") for one in records if one.key == f"p-{number}".encode()]
        assert told == expected + expected


@contextlib.asynccontextmanager
async def own_stack() -> AsyncIterator[tuple[stack.StackState, str]]:
    """A broker and a database of this test's own, to be stopped and started: state and the victim's database."""
    run = stack.running(heap_mb=320)
    state = await asyncio.to_thread(run.__enter__)
    try:
        await create_topics(state.kafka_bootstrap)
        url = await Backends(state.kafka_bootstrap, state.postgres_url, "its own", state).new_database(
            "tests.support.victim"
        )
        yield state, url
    finally:
        await asyncio.to_thread(run.__exit__, None, None, None)


@pytest.fixture(scope="module")
async def own() -> AsyncIterator[tuple[stack.StackState, str]]:
    """The stack that the tests below mistreat, one after the other."""
    if os.environ.get("AIFN_KAFKA") or os.environ.get("AIFN_POSTGRES"):
        pytest.skip("servers that were given to us are not stopped: unset AIFN_KAFKA and AIFN_POSTGRES")
    async with own_stack() as found:
        yield found


@contextlib.asynccontextmanager
async def watching(url: str) -> AsyncIterator[Database]:
    """A look into the database that stands interruptions."""
    db = await connect(url, connections=3)
    try:
        yield db
    finally:
        db.terminate()


def a_worker(state: stack.StackState, url: str, name: str = "victim-own", **more: Any) -> Worker:
    more = {"database_url": url, "kafka": state.kafka_bootstrap} | more
    return Worker(make_victim(name=name), settings(VictimSettings, **more))


async def joined(one: Worker) -> bool:
    return one.watch is not None and len(one.watch.groups) == 2 and not one.watch.unassigned()


class Load:
    """Sends a job and a usage record every few milliseconds."""

    def __init__(self, kafka: str, prefix: str) -> None:
        self._kafka = kafka
        self._prefix = prefix
        self.names: list[str] = []
        self.enough = asyncio.Event()

    async def run(self) -> None:
        while not self.enough.is_set():
            name = f"{self._prefix}-{len(self.names)}"
            await send(self._kafka, placed(name, project_id=f"p-{len(self.names) % 5}"), used(name, 1))
            self.names.append(name)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_database_restarted_under_load_loses_and_doubles_nothing(
    own: tuple[stack.StackState, str], mode: Any
) -> None:
    state, url = own
    async with watching(url) as db, a_worker(state, url) as one:
        # What earlier tests did stays, above all the inbox: their last messages may come once more.
        done, sum_before = await effects(db), await total(db)
        before = len({_attribute(r, "ce_id") for r in await read_all(state.kafka_bootstrap, BudgetHeld.topic)})
        before_charged = len(
            {_attribute(r, "ce_id") for r in await read_all(state.kafka_bootstrap, UsageCharged.topic)}
        )
        await until(lambda: joined(one), seconds=40)
        load = Load(state.kafka_bootstrap, f"pg-{mode}")
        task = asyncio.create_task(load.run())
        await until(lambda: len(load.names) > 10)
        await asyncio.to_thread(stack.restart_postgres, state, mode)
        count = len(load.names)
        await until(lambda: len(load.names) > count + 10)
        load.enough.set()
        await task
        await until(lambda: _answers(db, lambda: has_effects(db, done + load.names)), seconds=60)
        await until(lambda: _answers(db, lambda: _total_is(db, sum_before + len(load.names))), seconds=60)
        await until(lambda: _answers(db, lambda: _outbox_is_empty(db)), seconds=60)
        assert await db.fetchval("SELECT count(*) FROM dead_letter") == 0
        held = {_attribute(r, "ce_id") for r in await read_all(state.kafka_bootstrap, BudgetHeld.topic)}
        charged = {_attribute(r, "ce_id") for r in await read_all(state.kafka_bootstrap, UsageCharged.topic)}
        assert len(held) - before == len(load.names)
        assert len(charged) - before_charged == len(load.names)


async def _answers(db: Database, question: Any) -> bool:
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return bool(await question())
    return False


async def test_a_broker_killed_and_started_again_loses_and_doubles_nothing(own: tuple[stack.StackState, str]) -> None:
    state, url = own
    async with watching(url) as db, a_worker(state, url) as one:
        done, sum_before = await effects(db), await total(db)
        await until(lambda: joined(one), seconds=40)
        names = [f"kafka-{n}" for n in range(40)]
        await send(state.kafka_bootstrap, *(placed(n) for n in names[:20]), *(used(n, 1) for n in names[:20]))
        # What is announced while the broker is away waits in the outbox.
        await asyncio.to_thread(stack.stop_kafka, state, kill=True)
        async with transaction(db) as tx:
            for name in names[20:]:
                await announce(tx, placed(name))
        await asyncio.to_thread(stack.start_kafka, state)
        await send(state.kafka_bootstrap, *(used(n, 1) for n in names[20:]))
        await until(lambda: has_effects(db, done + names), seconds=60)
        await until(lambda: _total_is(db, sum_before + 40), seconds=60)
        await until(lambda: _outbox_is_empty(db), seconds=60)
        assert await db.fetchval("SELECT count(*) FROM dead_letter") == 0


async def test_without_a_broker_requests_are_answered_and_a_worker_waits_and_stops_in_time(
    own: tuple[stack.StackState, str],
) -> None:
    state, url = own
    async with watching(url) as db:
        done = await effects(db)
        lost = a_worker(state, url)
        async with lost:
            await until(lambda: joined(lost), seconds=40)
            await asyncio.to_thread(stack.stop_kafka, state)
            try:
                service = make_victim(name="scheduler")  # a name that tokens are made for
                async with asking(service, db, settings(VictimSettings)) as asker:
                    asker.as_("applicant", entitlements=["pi:project:aif-2026-0117"])
                    assert (await asker.post("/v1/jobs", json={"job_id": "offline"})).status_code == 201
                assert await waiting(db) == 1
                began = time.monotonic()
                await lost.__aexit__()
                assert time.monotonic() - began < 75
                # A worker that is started now waits, says so, and stops when it is told to.
                fresh = a_worker(state, url)
                async with fresh:
                    await asyncio.sleep(1.5)
                    assert fresh.watch is not None
                    assert len(fresh.watch.unassigned()) == 2
                    assert fresh.watch.stalled() == []
                    early = a_worker(state, url)
                    async with early:
                        await asyncio.sleep(0.2)
                    await asyncio.to_thread(stack.start_kafka, state)
                    await until(lambda: has_effects(db, [*done, "offline"]), seconds=60)
            finally:
                await asyncio.to_thread(stack.start_kafka, state)


async def test_without_a_database_a_process_answers_its_probes_begins_later_and_stops_when_told(
    own: tuple[stack.StackState, str], tmp_path: Path
) -> None:
    state, url = own
    await asyncio.to_thread(stack.stop_postgres, state)
    try:
        async with children(tmp_path, AIFN_DATABASE_URL=url, AIFN_KAFKA=state.kafka_bootstrap) as nursery:
            api, worker, other = nursery.start("api"), nursery.start("worker"), nursery.start("worker")
            for child in nursery.all:
                await until(lambda child=child: _live(child), seconds=40)  # type: ignore[misc]
                assert await child.probe("/readyz") == 503
                assert await child.probe("/startupz") == 503
            assert await api.probe("/v1/jobs") == 401
            other.process.terminate()
            assert await other.end() == 0, other.tail()
            await asyncio.to_thread(stack.start_postgres, state)
            await api.ready()
            await worker.ready()
            for child in (api, worker):
                child.process.terminate()
                assert await child.end() == 0, child.tail()
    finally:
        await asyncio.to_thread(stack.start_postgres, state)


async def _live(child: Any) -> bool:
    return bool(await child.probe("/livez") == 200)


async def test_three_starters_at_once_prepare_one_database(own: tuple[stack.StackState, str]) -> None:
    state, _ = own
    backends = Backends(state.kafka_bootstrap, state.postgres_url, "its own", state)
    await backends.execute("CREATE DATABASE fresh")
    pools = [await connect(backends.url("fresh"), connections=2) for _ in range(3)]
    try:
        await asyncio.gather(*(prepare(make_victim(), settings(VictimSettings), db) for db in pools))
        assert (
            await pools[0].fetchval("SELECT count(*) FROM schema_migration WHERE package = 'tests.support.victim'") == 1
        )
    finally:
        for db in pools:
            db.terminate()
