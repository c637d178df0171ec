"""The two programs the check needs: one that renders, one that validates. Built once, into the download cache."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from aifn_local.errors import StackError
from aifn_local.home import home_folder, locked, make_folder

VALIDATOR = "sigs.k8s.io/kubectl-validate@v0.0.4"
RENDERER = "sigs.k8s.io/kustomize/kustomize/v5@v5.7.1"
_BUILD_SECONDS = 1200


def renderer(say: Callable[[str], None]) -> tuple[str, ...]:
    """The command that renders a folder: kustomize or a kubectl that knows components, else one built here.

    Raises: StackError.
    """
    if found := shutil.which("kustomize"):
        return (found, "build")
    if (found := shutil.which("kubectl")) and _knows_components(found):
        return (found, "kustomize")
    return (str(ensure(RENDERER, say)), "build")


def validator(say: Callable[[str], None]) -> Path:
    """The program that validates by the API server's own rules. Raises StackError."""
    if found := shutil.which("kubectl-validate"):
        return Path(found)
    return ensure(VALIDATOR, say)


def folder() -> Path:
    """Where programs that were built here lie."""
    return home_folder() / "k8s-tools"


def ensure(module: str, say: Callable[[str], None]) -> Path:
    """A Go program of exactly this version, built now if it is not there yet. Raises StackError."""
    path, _, version = module.partition("@")
    parts = [part for part in path.split("/") if not (part[:1] == "v" and part[1:].isdigit())]
    place = folder() / f"{parts[-1]}-{version}"
    program = place / parts[-1]
    if program.exists():
        return program
    with locked(place):
        if program.exists():
            return program
        if shutil.which("go") is None:
            raise StackError(
                f"{parts[-1]} is built with Go, and there is none here: install Go 1.23 or newer, or {parts[-1]}"
            )
        say(f"building {parts[-1]} {version} (minutes, once)")
        make_folder(place)
        # Elsewhere first: a build that is stopped half-way must leave nothing that looks like a program.
        half = make_folder(place / "half")
        _build(module, half)
        os.replace(half / parts[-1], program)
        shutil.rmtree(half)
    return program


def _build(module: str, into: Path) -> None:
    # Flags that change how packages are compiled would compile the standard library again: minutes for nothing.
    env = {**os.environ, "GOBIN": str(into), "GOFLAGS": "-mod=mod"}
    done = subprocess.run(
        ["go", "install", "-ldflags=-s -w", module],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_SECONDS,
    )
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise StackError(f"{module} could not be built: {' '.join(last) or 'go gave no reason'}")


def _knows_components(kubectl: str) -> bool:
    """Whether the Kustomize inside this kubectl is 4 or later; older ones know neither components nor replacements."""
    done = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, check=False, timeout=30)
    for line in done.stdout.splitlines():
        name, _, version = line.partition(":")
        if name.strip() == "Kustomize Version":
            return version.strip().lstrip("v").split(".")[0] in ("5", "6")
    return False
