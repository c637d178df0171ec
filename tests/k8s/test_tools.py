"""The programs of the check are built once, whole or not at all, and what is missing is said with what to do."""

from pathlib import Path

import pytest
from aifn_k8s import tools
from aifn_k8s.render import objects, render
from aifn_local.errors import StackError


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty cache and a folder of programs of its own, which is empty too."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/bin:/usr/bin")
    monkeypatch.setenv("AIFN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("shutil.which", lambda name: str(programs / name) if (programs / name).exists() else None)
    return programs


def _program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_without_go_it_is_said_what_to_install(bare: Path) -> None:
    with pytest.raises(StackError, match=r"kubectl-validate is built with Go, .*: install Go 1\.23 or newer"):
        tools.validator(lambda _: None)
    assert list(bare.iterdir()) == []


def test_a_program_is_built_once(bare: Path, tmp_path: Path) -> None:
    _program(bare, "go", f'echo built >>{tmp_path}/log; printf "#!/bin/sh\\n" >"$GOBIN/kubectl-validate"')
    said: list[str] = []
    first, second = tools.validator(said.append), tools.validator(said.append)
    assert first == second
    assert first.exists()
    assert (tmp_path / "log").read_text() == "built\n"
    assert len(said) == 1


def test_a_build_that_fails_says_why_and_leaves_nothing_behind(bare: Path) -> None:
    _program(bare, "go", 'printf half >"$GOBIN/kubectl-validate"; echo "go: no such module" >&2; exit 1')
    with pytest.raises(StackError, match="could not be built: go: no such module"):
        tools.validator(lambda _: None)
    assert not list(tools.folder().glob("kubectl-validate-*/kubectl-validate"))


@pytest.mark.parametrize(("version", "taken"), [("v5.5.0", True), ("v3.2.0", False)])
def test_a_kubectl_too_old_for_components_is_not_taken(bare: Path, version: str, taken: bool) -> None:
    _program(bare, "kubectl", f'echo "Client Version: v1"; echo "Kustomize Version: {version}"')
    _program(bare, "go", 'printf "#!/bin/sh\\n" >"$GOBIN/kustomize"')
    command = tools.renderer(lambda _: None)
    assert (Path(command[0]).name, command[1]) == (("kubectl", "kustomize") if taken else ("kustomize", "build"))


def test_an_overlay_that_does_not_render_is_named_with_the_reason(tmp_path: Path) -> None:
    _program(tmp_path, "kustomize", "echo no such base >&2; exit 1")
    with pytest.raises(StackError, match="broken does not render: no such base"):
        render(tmp_path / "broken", [str(tmp_path / "kustomize")])


def test_objects_of_several_overlays_are_the_same_but_for_their_namespace() -> None:
    text = "kind: A\nmetadata:\n  name: a\n  namespace: {}\n---\nkind: B\nmetadata:\n  name: b\n  namespace: {}\n"
    assert objects(text.format("x", "x")) == objects(text.format("y", "y"))
