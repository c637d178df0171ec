"""A real file system without room, under one table of a database; only root, where the server is, can make one."""

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aifn_common.database import Database
from aifn_local import processes

from tests.support.backends import Backends

SMALL_BYTES = 256 * 1024


@contextlib.contextmanager
def small_file_system(backends: Backends) -> Iterator[Path]:
    """A folder of the database server's with so many bytes. Skips the test where there can be none."""
    if backends.state is None or os.geteuid() != 0:
        pytest.skip("a small file system for the database is made by root, for a server of this machine")
    account = processes.unprivileged_account()
    assert account is not None
    folder = Path(tempfile.mkdtemp(prefix="aifn-small-", dir="/var/tmp"))
    options = f"size={SMALL_BYTES},mode=0700,uid={account.uid},gid={account.gid}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    try:
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        yield folder
    finally:
        if not done.returncode:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


@contextlib.asynccontextmanager
async def without_room(backends: Backends, db: Database, table: str) -> AsyncIterator[Path]:
    """An empty table lies on a disk that is full; removing the file that is given makes room."""
    with small_file_system(backends) as folder:
        space, filler = f"small_{secrets.token_hex(4)}", folder / "filler"
        await db.execute(f"CREATE TABLESPACE {space} LOCATION '{folder}'")
        try:
            await db.execute(f"ALTER TABLE {table} SET TABLESPACE {space}")
            _fill(filler)
            yield filler
        finally:
            filler.unlink(missing_ok=True)
            await db.execute(f"ALTER TABLE {table} SET TABLESPACE pg_default")
            await db.execute(f"DROP TABLESPACE {space}")


def _fill(filler: Path) -> None:
    """Write until nothing more fits."""
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(filler).free == 0
