"""What is rendered once and looked at by many tests, and the programs for it, where they are at hand."""

import shutil
from pathlib import Path

import pytest
from aifn_k8s import tools
from aifn_k8s.render import Rendered, folders, render_all
from aifn_local.errors import StackError

from tests.support.manifests import LOOKED_AT, TREE


def _nothing(_: str) -> None:
    """Tests build nothing, so nothing is said."""


def _at_hand(name: str) -> bool:
    built = list(tools.folder().glob(f"{name}-*/{name}"))
    return shutil.which(name) is not None or bool(built)


@pytest.fixture(scope="session")
def rendered() -> dict[str, Rendered]:
    """One overlay of each sort, by name."""
    if not (_at_hand("kustomize") or _at_hand("kubectl")):
        pytest.skip("nothing here renders manifests: `make k8s-check` builds kustomize")
    try:
        command = tools.renderer(_nothing)
    except StackError as fault:
        pytest.skip(str(fault))
    wanted = [folder for folder in folders(TREE) if folder.name in LOOKED_AT]
    return {one.name: one for one in render_all(wanted, command)}


@pytest.fixture(scope="session")
def validator() -> Path:
    """The program that validates; it takes minutes to build, so tests do not."""
    if not _at_hand("kubectl-validate"):
        pytest.skip("kubectl-validate is not built yet: `make k8s-check` does")
    return tools.validator(_nothing)
