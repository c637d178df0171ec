"""Starting, finding and ending the programs of a stack.

A program is known by its mark: arguments on its command line that name the stack's own folder. A process id can be
reused by a stranger, a mark cannot, and it is found again after whoever started it was killed.
"""

import grp
import os
import pwd
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from aifn_local.errors import StackError, explain, explain_os_error

Mark = tuple[str, ...]
Step = tuple[signal.Signals, float]

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Programs this process started itself: it must read their exit status, or they stay as zombies."""


@dataclass(frozen=True)
class Account:
    """An unprivileged user of the system, to run a program that refuses root."""

    name: str
    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """Whom root lends its database to; None when we are not root. Raises StackError when there is nobody."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return Account(name, entry.pw_uid, entry.pw_gid)
    raise StackError(
        "PostgreSQL refuses to run as root and there is no user 'nobody': add one, or run as a normal user"
    )


def can_reach(path: Path, account: Account | None) -> bool:
    """Whether the account may enter every folder on the way to `path` and read what is there."""
    if account is None:
        return os.access(path, os.R_OK)
    groups = {account.gid} | {g.gr_gid for g in grp.getgrall() if account.name in g.gr_mem}
    target = path.resolve()
    return all(
        _may(folder, account.uid, groups, needed=0o5 if folder == target else 0o1)
        for folder in (target, *target.parents)
    )


def _may(path: Path, uid: int, groups: set[int], *, needed: int) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    return (status.st_mode >> shift) & needed == needed


_PORTS = range(20_000, 32_000)
_given: set[int] = set()


def free_port(preferred: int | None = None) -> int:
    """A TCP port of the loopback nobody listens on, `preferred` if it is free. Another program may still be quicker.

    It lies below those that the system gives to outgoing connections: of these, a busy stack makes hundreds between
    choosing a port and listening on it. No port is given twice by one process. Raises StackError if all are taken.
    """
    if preferred is not None and not answers("127.0.0.1", preferred):
        return preferred
    for port in random.sample(_PORTS, len(_PORTS)):
        if port not in _given and _may_listen(port):
            _given.add(port)
            return port
    raise StackError(f"no TCP port between {_PORTS[0]} and {_PORTS[-1]} is free: stop what listens there")


def _may_listen(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def answers(host: str, port: int, *, timeout: float = 1.0) -> bool:
    """Whether something accepts TCP connections there, within `timeout` s."""
    with suppress(OSError), socket.create_connection((host, port), timeout=timeout):
        return True
    return False


def clean_environment() -> dict[str, str]:
    """The environment for a program of the stack: nothing of ours that could change what it does."""
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "TMPDIR", "TZ", "LD_LIBRARY_PATH")}
    return {"PATH": os.defpath, **kept, "LANG": "C", "LC_ALL": "C"}


def _identity(account: Account | None) -> dict[str, int | list[int]]:
    return {} if account is None else {"user": account.uid, "group": account.gid, "extra_groups": []}


def launch(
    command: Sequence[str],
    *,
    output: Path,
    folder: Path,
    account: Account | None = None,
    extra: Mapping[str, str] | None = None,
) -> int:
    """Start a program in a session of its own, so that it outlives us and our terminal's Ctrl-C. Returns its id."""
    with output.open("ab") as sink:
        try:
            child: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=folder,
                env=clean_environment() | dict(extra or {}),
                start_new_session=True,
                **_identity(account),  # type: ignore[call-overload]
            )
        except OSError as error:
            raise explain_os_error(error, doing=f"starting {command[0]}", path=Path(command[0])) from error
    _children[child.pid] = child
    return child.pid


def run(
    program: str, command: Sequence[str], *, folder: Path, account: Account | None = None, timeout: float = 60.0
) -> str:
    """Run a program to its end and return what it printed. Raises StackError with its reason when it fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=clean_environment(),
            timeout=timeout,
            check=False,
            **_identity(account),  # type: ignore[call-overload]
        )
    except subprocess.TimeoutExpired as error:
        raise StackError(f"{program} was not done after {timeout:.0f} s: the machine is too busy, run again") from error
    except OSError as error:
        raise explain_os_error(error, doing=f"starting {command[0]}", path=Path(command[0])) from error
    output: str = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        raise explain(program, output)
    return output


def carrying(mark: Mark) -> list[psutil.Process]:
    """Every living process whose command line holds the mark's arguments, one after the other."""
    _reap()
    width = len(mark)
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = tuple(process.info["cmdline"] or ())
        if any(line[at : at + width] == mark for at in range(len(line) - width + 1)):
            found.append(process)
    return found


def is_alive(pid: int | None, mark: Mark) -> bool:
    """Whether the process with this id lives and is ours: an id that was reused carries no mark."""
    return pid is not None and any(process.pid == pid for process in carrying(mark))


def end(mark: Mark, steps: Sequence[Step]) -> None:
    """Send each signal in turn to all that carry the mark, with its patience in s, until they are gone."""
    ours = {process.pid for process in carrying(mark)} & _children.keys()

    def gone() -> bool:
        # Without a command line it has ended, and still has its id until it is reaped: a server that finds that id in
        # its lock file takes it for another that runs.
        return not carrying(mark) and not ours & _children.keys()

    for order, patience in steps:
        for process in carrying(mark):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(order)
        if wait_until(gone, patience):
            return
    left = ", ".join(str(process.pid) for process in carrying(mark))
    raise StackError(f"process {left} does not end: kill it by hand")


def wait_until(holds: Callable[[], bool], patience: float, *, pause: float = 0.03) -> bool:
    """Look every `pause` s until it holds; False when it did not within `patience` s."""
    deadline = time.monotonic() + patience
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def exit_status(pid: int) -> int | None:
    """How a program this process started has ended; None while it runs."""
    child = _children.get(pid)
    return child.poll() if child else None


def started_at(pid: int) -> float:
    """When the process was created, seconds since the epoch."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return time.time()


def _reap() -> None:
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            _children.pop(pid, None)
