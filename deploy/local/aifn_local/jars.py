"""Kafka's released jars: fetched by exact coordinates, believed only by their SHA-256."""

import hashlib
import os
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from aifn_local.errors import StackError, explain_download, explain_os_error
from aifn_local.home import locked, make_folder

KAFKA_VERSION = "4.3.1"
_SOURCE = "repo.maven.apache.org"
_THREADS = 8
_ATTEMPTS = 3

Fetch = Callable[["Jar", Path], Path]
"""Download one jar somewhere under the given empty folder and say where it is."""


@dataclass(frozen=True)
class Jar:
    """One jar as Maven names it, and what its bytes must hash to."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


def kafka_jars() -> list[Jar]:
    """Every jar the broker needs at run time, from the list that comes with this package."""
    text = resources.files("aifn_local").joinpath("kafka-jars.toml").read_text(encoding="utf-8")
    listed: dict[str, str] = tomllib.loads(text)["jars"]
    jars = []
    for coordinates, digest in listed.items():
        group, artifact, version = coordinates.split(":")
        jars.append(Jar(group, artifact, version, digest))
    return jars


def ensure_jars(
    folder: Path, jars: list[Jar], *, fetch: Fetch | None = None, say: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Have every jar in `folder` with the right hash; what is missing or damaged is fetched (again).

    Returns: the paths, in the order of `jars`. Raises: StackError, when one cannot be had.
    """
    download = fetch or fetch_from_maven
    with locked(folder):
        make_folder(folder)
        wanted = [jar for jar in jars if not is_sound(folder / jar.file_name, jar)]
        if wanted:
            say(f"fetching {len(wanted)} of {len(jars)} jars of Apache Kafka {KAFKA_VERSION} (54 MB in all, once)")
            with ThreadPoolExecutor(_THREADS, thread_name_prefix="jars") as pool:
                pending = [pool.submit(_bring, jar, folder, download) for jar in wanted]
                try:
                    for each in pending:
                        each.result()
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
    return [folder / jar.file_name for jar in jars]


def is_sound(path: Path, jar: Jar) -> bool:
    """Whether the file is there and its bytes are the ones that were listed."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest() == jar.sha256
    except OSError:
        return False


def fetch_from_maven(jar: Jar, folder: Path) -> Path:
    """Download one jar from Maven Central, by its exact coordinates: no dependency is resolved."""
    from jgo.maven import MavenContext  # takes a while to import, and most starts need no download

    context = MavenContext(repo_cache=folder, timeout=30)
    return Path(context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve())


def _bring(jar: Jar, folder: Path, download: Fetch) -> None:
    what = f"{jar.group}:{jar.artifact}:{jar.version}"
    failure: Exception | None = None
    for attempt in range(_ATTEMPTS):
        time.sleep(attempt)
        try:
            work = Path(tempfile.mkdtemp(prefix=".incoming-", dir=folder))
        except OSError as error:
            raise explain_os_error(error, doing=f"fetching {what}", path=folder) from error
        try:
            arrived = download(jar, work)
            if not is_sound(arrived, jar):
                failure = StackError(
                    f"{what} arrived with a wrong SHA-256: something between here and {_SOURCE} changes it"
                )
                continue
            os.replace(arrived, folder / jar.file_name)
        except Exception as error:  # whatever the library raises: the network, the disk, a repository that says no
            failure = explain_download(error, what=what, source=_SOURCE)
            failure.__cause__ = error
        else:
            return
        finally:
            shutil.rmtree(work, ignore_errors=True)
    assert failure is not None
    raise failure
