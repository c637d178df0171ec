"""Runs the programs that make images, and says in one line which of them is missing or failed."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ROOT / "deploy" / "images"
BUILD = ROOT / "build" / "images"


class ImageError(Exception):
    """An image could not be made; the message says what to do."""


def run(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> str:
    """What a program prints. Raises ImageError with its last words."""
    if shutil.which(command[0]) is None:
        raise ImageError(f"{command[0]} was not found: {_ADVICE.get(command[0], 'install it')}")
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        words = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise ImageError(f"{' '.join(command[:3])} failed with status {done.returncode}:\n" + "\n".join(words[-15:]))
    return done.stdout


def run_bytes(command: Sequence[str]) -> bytes:
    """What a program writes, byte for byte; nothing if it fails."""
    done = subprocess.run(command, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else b""


def digest(*parts: str | bytes) -> str:
    """One hash of several texts, none of which can pass for a piece of another."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()


def fresh_folder(path: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


_ADVICE = {
    "docker": "install a Docker engine (Debian: docker.io)",
    "mmdebstrap": "install mmdebstrap, or build without OFFLINE=1 on a base image from a registry",
    ".tools/bin/uv": "run `make setup` first",
}
