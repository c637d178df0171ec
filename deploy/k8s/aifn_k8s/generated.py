"""Every file of deploy/k8s that is made from code, written and held against what lies there."""

from pathlib import Path

from aifn_k8s.bases import bases
from aifn_k8s.overlays import overlays
from aifn_k8s.scalers import scalers

WHOLLY_OURS = ("overlays", "base")
"""Folders in which a generated file that is no longer made is removed."""


def files() -> dict[str, str]:
    """Path below deploy/k8s and text."""
    return bases() | overlays() | {"components/keda/scalers.yaml": scalers()}


def stale(tree: Path) -> list[str]:
    """Paths that are not as they would be made now, or should not be there."""
    made = files()
    wrong = [path for path, text in made.items() if _text(tree / path) != text]
    return sorted([*wrong, *_left_over(tree, set(made))])


def write(tree: Path) -> list[str]:
    """Make everything current; returns what changed."""
    made = files()
    changed = stale(tree)
    for path in changed:
        if path in made:
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(made[path], encoding="utf-8")
        else:
            (tree / path).unlink()
    return changed


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _left_over(tree: Path, made: set[str]) -> list[str]:
    mark = "# Made by `aifn k8s generate`"
    found = [path for folder in WHOLLY_OURS for path in (tree / folder).rglob("*.yaml")]
    return [
        relative
        for path in found
        if (relative := path.relative_to(tree).as_posix()) not in made
        and path.read_text(encoding="utf-8").startswith(mark)
    ]
