"""Renders overlays, several at a time, into plain lists of objects."""

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from aifn_local.errors import StackError

from aifn_k8s.yaml_text import from_yaml

_SECONDS = 120
_NAMESPACE = re.compile(r"^  namespace: \S+\n", re.MULTILINE)


@dataclass(frozen=True)
class Rendered:
    """One overlay and the objects in it, without the namespace that all of them are in."""

    name: str
    objects: tuple[dict[str, Any], ...]


def folders(tree: Path) -> list[Path]:
    """Everything that can be applied: overlays, and what hands them to a cluster."""
    roots = [tree / "overlays", tree / "gitops"]
    return sorted(path.parent for root in roots for path in root.glob("*/kustomization.yaml"))


def render(folder: Path, command: Sequence[str]) -> Rendered:
    """One overlay. Raises StackError with the renderer's own words."""
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False, timeout=_SECONDS)
    if done.returncode:
        reason = " ".join(done.stderr.split())
        raise StackError(f"{folder.name} does not render: {reason}")
    return Rendered(folder.name, tuple(objects(done.stdout)))


def objects(text: str) -> list[dict[str, Any]]:
    """The objects of a rendered text. Overlays share most of them, so each is read once: do not change them."""
    bare = _NAMESPACE.sub("", text)
    return [found for part in bare.split("\n---\n") for found in _read(part)]


@cache
def _read(part: str) -> tuple[dict[str, Any], ...]:
    return tuple(from_yaml(part))


def render_all(folders: Iterable[Path], command: Sequence[str]) -> list[Rendered]:
    """Many overlays, as many at once as there are cores. Raises StackError."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(lambda folder: render(folder, command), folders))
