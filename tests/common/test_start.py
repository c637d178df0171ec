"""What keeps a process from beginning is one line and a status; what may pass by itself makes it wait, unready."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from aifn_common.answering import make_api
from aifn_common.database import Database, transaction
from aifn_common.outbox import announce
from aifn_common.service import CannotStart, Service, Worker, check, migrate_service
from aifn_common.settings import ServiceSettings, WrongSetting, read_settings
from aifn_events.placement import JobPlaced
from pydantic import Field, SecretStr

from tests.support import victim
from tests.support.backends import Backends
from tests.support.children import children
from tests.support.full_disk import without_room
from tests.support.http import asking
from tests.support.settings import settings
from tests.support.victim import VictimSettings, effects, make_victim
from tests.support.waiting import until


def told(url: str, **more: object) -> VictimSettings:
    return settings(VictimSettings, database_url=url, **more)


def changed(url: str, *, password: str | None = None, database: str | None = None) -> str:
    parts = urlsplit(url)
    place = f"{parts.username}:{password or parts.password}@{parts.hostname}:{parts.port}"
    return urlunsplit(parts._replace(netloc=place, path=f"/{database}" if database else parts.path))


# --- Secrets ---------------------------------------------------------------------------------------------------------


class Keyed(ServiceSettings):
    """Settings with a secret of their own."""

    signing_key: SecretStr = Field(min_length=8, examples=["a-long-random-secret"])


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Only what is needed, and no secret."""
    import os

    for name in [name for name in os.environ if name.startswith("AIFN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AIFN_FACTORY", "lumi-aif")
    monkeypatch.setenv("AIFN_KAFKA", "kafka:9092")
    monkeypatch.setenv("AIFN_DATABASE_URL", "postgresql://a:b@db/a")
    return monkeypatch


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_a_secret_comes_from_a_file_and_the_line_feed_at_its_end_is_no_part_of_it(
    environment: pytest.MonkeyPatch, tmp_path: Path, ending: str
) -> None:
    for name, value in (("AIFN_SIGNING_KEY", " secret word "), ("AIFN_DATABASE_URL", "postgresql://a:b@db/a")):
        file = tmp_path / name
        file.write_bytes((value + ending).encode())
        environment.delenv(name, raising=False)
        environment.setenv(f"{name}_FILE", str(file))
    found = read_settings(Keyed)
    assert found.signing_key.get_secret_value() == " secret word "
    assert found.database_url.get_secret_value() == "postgresql://a:b@db/a"


def test_a_secret_in_the_environment_loses_its_line_feed_too(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AIFN_SIGNING_KEY", "secret word\n")
    assert read_settings(Keyed).signing_key.get_secret_value() == "secret word"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x" * 70_000, "larger"),
    ],
)
def test_a_file_without_a_secret_is_named(
    environment: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    environment.setenv("AIFN_SIGNING_KEY_FILE", str(file))
    with pytest.raises(WrongSetting, match=f"^AIFN_SIGNING_KEY_FILE is wrong: {file} .*{words}"):
        read_settings(Keyed)


def test_a_secret_that_is_missing_or_said_twice_is_named(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        WrongSetting, match=r"^AIFN_SIGNING_KEY is not set, for example .*, or AIFN_SIGNING_KEY_FILE to"
    ):
        read_settings(Keyed)
    environment.setenv("AIFN_SIGNING_KEY", "secret word")
    environment.setenv("AIFN_SIGNING_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(WrongSetting, match=r"^AIFN_SIGNING_KEY and AIFN_SIGNING_KEY_FILE are both set"):
        read_settings(Keyed)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AIFN_DATABASE_URL", "db:5432/accounting", "AIFN_DATABASE_URL is wrong: it is no address of a PostgreSQL"),
        ("AIFN_DATABASE_URL", "postgresql://a:hidden@db:54x/a", "AIFN_DATABASE_URL is wrong: it is no address"),
        ("AIFN_KAFKA", "kafka", "AIFN_KAFKA is wrong: "),
        ("AIFN_KAFKA", "https://kafka:9092", "AIFN_KAFKA is wrong: "),
        ("AIFN_KAFKA_CA_FILE", "/nowhere/ca.crt", "AIFN_KAFKA_CA_FILE is wrong: /nowhere/ca.crt cannot be read"),
        ("AIFN_KAFKA_HEARTBEAT_SECONDS", "5", "AIFN_KAFKA_SESSION_SECONDS is wrong: "),
        ("AIFN_GRACEFUL_SECONDS", "51", "AIFN_GRACEFUL_SECONDS is wrong: "),
        ("AIFN_OIDC_ISSUER", "login.example.eu", "AIFN_OIDC_ISSUER is wrong: "),
    ],
)
def test_a_value_that_makes_no_sense_is_named_and_never_shown(
    environment: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(WrongSetting) as wrong:
        read_settings(ServiceSettings)
    assert str(wrong.value).startswith(words)
    assert "\n" not in str(wrong.value)
    assert "hidden" not in str(wrong.value)


def test_the_times_of_stopping_and_of_consumers_are_those_a_pod_is_made_for(environment: pytest.MonkeyPatch) -> None:
    found = read_settings(ServiceSettings)
    assert (found.graceful_seconds, found.stop_seconds) == (45, 50)
    assert (found.kafka_session_seconds, found.kafka_heartbeat_seconds) == (6, 2)


# --- Database and schema ---------------------------------------------------------------------------------------------


async def test_a_database_that_refuses_us_stops_the_start_with_its_words_and_without_ours(url: str) -> None:
    for wrong, words in (
        (changed(url, password="hidden"), "password authentication failed"),
        (changed(url, database="nothing_here"), 'database "nothing_here" does not exist'),
    ):
        with pytest.raises(CannotStart, match=words) as ended:
            await check(make_victim(), told(wrong))
        assert ended.value.status == 78
        assert str(ended.value).startswith("AIFN_DATABASE_URL is wrong: the server says: ")
        assert "hidden" not in str(ended.value)


async def test_a_database_that_cannot_be_found_is_waited_for_and_named_by_the_probe() -> None:
    service, there = make_victim(name="scheduler"), told("postgresql://a:b@no-such-host.invalid/a")
    await check(service, there)
    app = make_api(service, there)
    async with app.router.lifespan_context(app):
        from httpx import ASGITransport, AsyncClient

        async with AsyncClient(transport=ASGITransport(app=app), base_url="http://x") as http:
            answer = await http.get("/readyz")
            assert answer.status_code == 503
            assert answer.json()["failed"][0].startswith("database: [Errno")
            assert (await http.get("/livez")).status_code == 200


async def test_migrate_ends_with_69_when_no_database_answers() -> None:
    with pytest.raises(CannotStart, match="AIFN_DATABASE_URL cannot be reached") as ended:
        await migrate_service(make_victim(), told("postgresql://a:b@127.0.0.1:1/a"), patience_seconds=0.5)
    assert ended.value.status == 69


async def test_a_schema_newer_than_the_program_can_live_with_stops_it_with_65(url: str, victim_db: Database) -> None:
    add = "INSERT INTO schema_migration VALUES ($1, $2, 'x', 'x', now(), $3)"
    newest = await victim_db.fetchval("SELECT max(number) FROM schema_migration WHERE package = $1", victim.PACKAGE)
    await victim_db.execute(add, victim.PACKAGE, newest + 1, newest)
    await check(make_victim(), told(url))
    await victim_db.execute(add, victim.PACKAGE, newest + 2, newest + 1)
    with pytest.raises(CannotStart, match=f"needs a program that knows {newest + 1:04d}") as ended:
        await check(make_victim(), told(url))
    assert ended.value.status == 65
    with pytest.raises(CannotStart, match="the database is newer than this program") as ended:
        await migrate_service(make_victim(), told(url))
    assert ended.value.status == 65


async def test_a_schema_older_than_the_program_is_waited_for(url: str, victim_db: Database, kafka: str) -> None:
    await victim_db.execute("DELETE FROM schema_migration WHERE package = $1", victim.PACKAGE)
    there = told(url, kafka=kafka)
    await check(make_victim(), there)
    async with Worker(make_victim(), there) as worker:
        await asyncio.sleep(1)
        assert worker.watch is not None
        assert worker.watch.unassigned()


async def test_a_broken_migration_changes_nothing_and_the_version_before_goes_on_serving(
    url: str, victim_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = tmp_path / "newer_release" / "migrations"
    newer.mkdir(parents=True)
    (newer.parent / "__init__.py").touch()
    (newer / "0001_more.sql").write_text("ALTER TABLE effect ADD COLUMN more text; SELECT 1/0;")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "newer_release", raising=False)
    old = make_victim(name="scheduler")
    async with asking(old, victim_db, told(url)) as asker:
        asker.as_("applicant", entitlements=["pi:project:aif-2026-0117"])
        new = Service(name="scheduler", package="newer_release", hears=old.hears, settings=VictimSettings)
        with pytest.raises(CannotStart) as ended:
            await migrate_service(new, told(url))
        assert (ended.value.status, str(ended.value)) == (
            65,
            "newer_release: 0001_more.sql failed: division by zero; nothing was changed",
        )
        assert (await asker.post("/v1/jobs", json={"job_id": "still-served"})).status_code == 201
        assert (await asker.get("/readyz")).status_code == 200
    assert await effects(victim_db, "http") == ["still-served"]


# --- A disk that is full ---------------------------------------------------------------------------------------------

# What PostgreSQL says when a table cannot grow, for where no small file system can be made.
_FULL = """
CREATE FUNCTION disk_is_full() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file "base/1/2": No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON effect FOR EACH STATEMENT EXECUTE FUNCTION disk_is_full()"""


@asynccontextmanager
async def _disk_full(kind: str, backends: Backends, db: Database) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """The table of effects cannot grow until what is given is called."""

    async def drop() -> None:
        await db.execute("DROP TRIGGER full_disk ON effect")

    if kind == "as the server words it":
        await db.execute(_FULL)
        yield drop
        return
    async with without_room(backends, db, "effect") as filler:

        async def make_room() -> None:
            filler.unlink()

        yield make_room


@pytest.mark.parametrize("kind", ["a real one", "as the server words it"])
async def test_a_full_disk_makes_a_worker_wait_unready_and_lose_nothing_and_an_api_say_try_again(
    url: str, victim_db: Database, kafka: str, backends: Backends, kind: str
) -> None:
    async with _disk_full(kind, backends, victim_db) as make_room:
        async with asking(make_victim(name="scheduler"), victim_db, told(url)) as asker:
            asker.as_("applicant", entitlements=["pi:project:aif-2026-0117"])
            answer = await asker.post("/v1/jobs", json={"job_id": "from-a-person"})
            assert (answer.status_code, answer.json()["code"]) == (503, "try_again")
        async with Worker(make_victim(), told(url, kafka=kafka)) as worker:
            async with transaction(victim_db) as tx:
                await announce(tx, JobPlaced.example(job_id="from-an-event"))
            await until(lambda: any("No space left on device" in one for one in problems(worker)), seconds=40)
            assert await victim_db.fetchval("SELECT count(*) FROM dead_letter") == 0
            await make_room()
            await until(lambda: _has(victim_db, "from-an-event"), seconds=40)
            await until(lambda: problems(worker) == [], seconds=40)


def problems(worker: Worker) -> list[str]:
    return worker.watch.problems() if worker.watch else []


async def _has(db: Database, name: str) -> bool:
    return name in await effects(db)


# --- Topics, and whole processes -------------------------------------------------------------------------------------


@pytest.mark.kafka
async def test_a_topic_that_is_missing_is_named_until_migrate_has_made_it(
    url: str, victim_db: Database, backends: Backends, kafka: str
) -> None:
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.delete_topics([JobPlaced.topic])
    await admin.close()
    there = told(url, kafka=kafka)
    async with Worker(make_victim(kinds=[JobPlaced]), there) as worker:
        await until(lambda: any(f"no topic {JobPlaced.topic}" in one for one in problems(worker)), seconds=40)
    await migrate_service(make_victim(), there)
    async with Worker(make_victim(kinds=[JobPlaced]), there) as worker:
        async with transaction(victim_db) as tx:
            await announce(tx, JobPlaced.example(job_id="later"))
        await until(lambda: _has(victim_db, "later"), seconds=40)
        await until(lambda: problems(worker) == [], seconds=40)


async def test_a_process_says_one_line_and_ends_with_the_status_that_fits(url: str, tmp_path: Path) -> None:
    async with children(tmp_path, AIFN_DATABASE_URL=url, AIFN_KAFKA="127.0.0.1:1") as nursery:
        ended = {
            nursery.start("worker", AIFN_KAFKA="kafka"): (78, "aifn-victim: AIFN_KAFKA is wrong: "),
            nursery.start("api", AIFN_DATABASE_URL=changed(url, database="nothing_here")): (
                78,
                "aifn-victim: AIFN_DATABASE_URL is wrong: the server says: ",
            ),
            nursery.start("dance"): (64, "usage: aifn-victim api|worker|migrate"),
        }
        for child, (status, words) in ended.items():
            assert await child.end() == status, child.tail()
            [line] = child.log.read_text().splitlines()
            assert line.startswith(words)


@pytest.mark.kafka
async def test_a_handler_that_hangs_is_given_up_in_time_and_its_message_comes_again(
    url: str, victim_db: Database, kafka: str, tmp_path: Path
) -> None:
    async with children(
        tmp_path,
        AIFN_DATABASE_URL=url,
        AIFN_KAFKA=kafka,
        AIFN_GRACEFUL_SECONDS="1",
        AIFN_STOP_SECONDS="2",
        VICTIM_NAME="victim-hang",
    ) as nursery:
        child = await nursery.start(AIFN_HANDLER_SECONDS="600").ready()
        async with transaction(victim_db) as tx:
            await announce(tx, JobPlaced.example(job_id="hangs"))
        await until(lambda: _in_a_handler(victim_db), seconds=40)
        child.process.send_signal(signal.SIGTERM)
        # Far less than the ten minutes of the handler, and than the 45 s that would be the default.
        assert await child.end(seconds=30) == 0, child.tail()
        assert await effects(victim_db) == []
        nursery.start(AIFN_HANDLER_SECONDS="0")
        await until(lambda: _has(victim_db, "hangs"), seconds=60)
    assert await victim_db.fetchval("SELECT count(*) FROM dead_letter") == 0


async def _in_a_handler(db: Database) -> bool:
    idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
    return bool(await db.fetchval(idle))
