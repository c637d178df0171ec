"""Where the local stack keeps its things: downloads shared by all, and one folder per stack."""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_dir

from aifn_local.errors import StackError, explain_os_error

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_LOCK_SECONDS = 180.0


def home_folder(home: Path | None = None) -> Path:
    """The folder everything lives under: `home`, else AIFN_HOME, else the user's cache folder. Absolute."""
    chosen = home or os.environ.get("AIFN_HOME") or user_cache_dir("aifn")
    return Path(chosen).expanduser().resolve()


def stack_folder(name: str, home: Path | None = None) -> Path:
    """The folder of one stack; it need not exist. Raises StackError when the name is none."""
    if not _NAME.fullmatch(name):
        raise StackError(f"{name!r} is no name for a stack: use up to 41 small letters, digits and hyphens")
    return home_folder(home) / "stacks" / name


def make_folder(folder: Path, *, mode: int = 0o755) -> Path:
    """Make a folder with this mode, and its missing parents for all to pass, whatever the umask. Raises StackError."""
    missing = [parent for parent in reversed(folder.parents) if not parent.exists()]
    try:
        for parent in missing:
            parent.mkdir(exist_ok=True)
            parent.chmod(0o755)
        folder.mkdir(exist_ok=True)
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(mode)
    except OSError as error:
        raise explain_os_error(error, doing="making a folder", path=folder) from error
    return folder


def lock_file(folder: Path) -> Path:
    """The file beside a folder whose lock stands for it: the folder itself may be removed."""
    return folder.with_name(folder.name + ".lock")


@contextmanager
def locked(folder: Path, *, patience: float = _LOCK_SECONDS) -> Iterator[None]:
    """Hold the folder for one process at a time; a process that dies lets go. Raises StackError after `patience` s."""
    make_folder(folder.parent)
    with lock_file(folder).open("a") as handle:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StackError(
                        f"another aifn command has been busy with {folder} for {patience:.0f} s: end it"
                    ) from None
                time.sleep(0.1)
        yield
