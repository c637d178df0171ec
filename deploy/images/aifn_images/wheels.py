"""The wheelhouse: exactly the wheels of uv.lock for each image, believed only by their hashes, and our own."""

import hashlib
import os
import re
import shutil
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker

from aifn_images.tools import BUILD, ROOT, ImageError, fresh_folder, run

UV = ".tools/bin/uv"
PIP = ".tools/bin/pip"
DOWNLOADS = BUILD / "downloads"
COMMON = "aifn-common"
# Newest first, down to the oldest that any wheel still names.
_GLIBC = [f"manylinux_2_{minor}" for minor in range(36, 4, -1)] + ["manylinux2014", "manylinux2010", "manylinux1"]


@dataclass(frozen=True)
class Requirement:
    """One locked package, and for which machines (`marker`); `lines` as the lock file says it, with every hash."""

    name: str
    version: str
    hashes: frozenset[str]
    lines: str
    marker: str = ""


@dataclass(frozen=True)
class Target:
    """For which Python and processor wheels are chosen: those of the base image."""

    python: str
    machine: str

    @property
    def pip_arguments(self) -> list[str]:
        """What tells pip so; `python` is like 3.11."""
        platforms = [f"--platform={glibc}_{self.machine}" for glibc in _GLIBC]
        abi = f"cp{self.python.replace('.', '')}"
        return ["--python-version", self.python, "--implementation=cp", f"--abi={abi}", "--abi=abi3", "--abi=none",
                *platforms, "--platform=any"]  # fmt: skip

    def wants(self, requirement: Requirement) -> bool:
        """Whether a requirement is for this target at all.

        >>> Target("3.11", "x86_64").wants(Requirement("colorama", "1", frozenset(), "", "sys_platform == 'win32'"))
        False
        """
        environment = {"python_version": self.python, "python_full_version": f"{self.python}.0", "os_name": "posix",
                       "platform_machine": self.machine, "sys_platform": "linux", "platform_system": "Linux",
                       "implementation_name": "cpython", "platform_python_implementation": "CPython"}  # fmt: skip
        return not requirement.marker or Marker(requirement.marker).evaluate(environment)


_START = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?: *; *([^\\]+))?")


def requirements(text: str) -> list[Requirement]:
    """Read what `uv export` wrote.

    >>> found = requirements("six==1.17.0 \\\\\\n    --hash=sha256:47\\\\\\n    --hash=sha256:ff\\n    # via x\\n")
    >>> (found[0].name, found[0].version, sorted(found[0].hashes))
    ('six', '1.17.0', ['47', 'ff'])
    """
    found: list[Requirement] = []
    block: list[str] = []
    for line in [*text.splitlines(), "end==0"]:
        if _START.match(line) and block:
            found.append(_requirement(block))
            block = []
        if line.strip() and not line.lstrip().startswith("#"):
            block.append(line.rstrip())
    return found


def _requirement(block: Sequence[str]) -> Requirement:
    start = _START.match(block[0])
    assert start is not None
    text = "\n".join(block)
    hashes = frozenset(re.findall(r"--hash=sha256:([0-9a-f]+)", text))
    return Requirement(start[1], start[2], hashes, text.rstrip(" \\"), (start[3] or "").strip())


def locked(target: Target, *selection: str) -> list[Requirement]:
    """What uv.lock says for a selection such as `--package aifn-accounting`, without our own packages."""
    command = [UV, "export", "--quiet", "--frozen", "--no-emit-workspace", *selection]
    return [one for one in requirements(run(command, env={"UV_FIND_LINKS": ""})) if target.wants(one)]


def locked_for(package: str, target: Target) -> list[Requirement]:
    """What one of our packages needs at run time."""
    return locked(target, "--no-dev", "--package", package)


def fetch(wanted: Iterable[Requirement], target: Target) -> dict[str, Path]:
    """Have a wheel of each requirement, by name; those that are here with a right hash are not fetched again.

    Raises ImageError.
    """
    wanted = list(wanted)
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    here = _by_hash()
    missing = [one for one in wanted if not one.hashes & here.keys()]
    if missing:
        listed = BUILD / "missing.txt"
        listed.write_text("\n".join(one.lines for one in missing) + "\n")
        run([PIP, "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes",
             "--only-binary=:all:", *target.pip_arguments, "--dest", str(DOWNLOADS),
             "--requirement", str(listed)])  # fmt: skip
        here = _by_hash()
    return {one.name: here[_one_of(one, here)] for one in wanted}


def _by_hash() -> dict[str, Path]:
    return {hash_of(path): path for path in sorted(DOWNLOADS.glob("*.whl"))}


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _one_of(wanted: Requirement, here: dict[str, Path]) -> str:
    found = wanted.hashes & here.keys()
    if not found:
        raise ImageError(f"{wanted.name} {wanted.version}: no wheel with a hash of uv.lock arrived")
    return min(found, key=lambda digest: here[digest].name)


def build_own(packages: Sequence[str], moment: int, build_tools: Sequence[Requirement]) -> dict[str, Path]:
    """Wheels of our own packages, by name, the same bytes each time. `moment`: seconds since the epoch, for them."""
    folder = fresh_folder(BUILD / "own")
    constraint = BUILD / "build-tools.txt"
    constraint.write_text("\n".join(one.lines for one in build_tools) + "\n")
    own = {}
    for package in packages:
        place = folder / package
        run(
            [UV, "build", "--quiet", "--wheel", "--package", package, "--out-dir", str(place), "--require-hashes",
             "--build-constraints", str(constraint)],
            env={"SOURCE_DATE_EPOCH": str(moment)},
        )  # fmt: skip
        own[package] = next(place.glob("*.whl"))
    return own


def own_packages(distribution: str) -> list[str]:
    """One of our packages with those of ours that it needs, as uv.lock says."""
    text = run([UV, "export", "--quiet", "--frozen", "--no-dev", "--no-hashes", "--package", distribution])
    paths = re.findall(r"^(?:-e )?(?:file://)?(\./\S+|\.)(?: |$)", text, re.MULTILINE)
    return [name_in(ROOT / path) for path in paths]


def name_in(folder: Path) -> str:
    """The name a folder's pyproject.toml declares."""
    declared: str = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"]
    return declared


def lay_out(folder: Path, wheels: Iterable[Path], third_party: Iterable[Requirement], pip: Path) -> None:
    """A folder that a Dockerfile copies: wheels, pip itself, and the list with the hash of each."""
    fresh_folder(folder)
    lines = [one.lines for one in third_party]
    for wheel in wheels:
        _place(wheel, folder / wheel.name)
        if wheel.is_relative_to(BUILD / "own"):
            name, version = wheel.name.split("-")[:2]
            lines.append(f"{name.replace('_', '-')}=={version} --hash=sha256:{hash_of(wheel)}")
    _place(pip, folder / "pip.whl")
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n")


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
