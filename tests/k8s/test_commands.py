"""`aifn k8s`: what it writes, what it says, and with which exit code it ends."""

import shutil
from pathlib import Path

import pytest
from aifn_k8s import generated
from aifn_k8s.commands import k8s
from aifn_k8s.render import Rendered
from typer.testing import CliRunner

from tests.support.manifests import ROOT, TREE


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any program of ours, and an empty cache."""
    monkeypatch.setenv("AIFN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("shutil.which", lambda _: None)
    return tmp_path


@pytest.mark.parametrize("command", ["check", "tools"])
def test_what_is_missing_is_said_in_one_line_and_ends_with_status_2(alone: Path, command: str) -> None:
    arguments = [command, "--root", str(ROOT)] if command == "check" else [command]
    done = CliRunner().invoke(k8s, arguments)
    assert done.exit_code == 2
    assert done.output.splitlines() == [
        f"aifn k8s {command}: kustomize is built with Go, and there is none here: "
        "install Go 1.23 or newer, or kustomize"
    ]


def test_schemas_that_were_generated_elsewhere_are_kept_slim(tmp_path: Path) -> None:
    folder = tmp_path / "deploy/k8s/schemas"
    folder.mkdir(parents=True)
    kept = TREE / "schemas/kafka.strimzi.io_kafkatopics.yaml"
    done = CliRunner().invoke(k8s, ["schemas", str(kept), "--root", str(tmp_path)])
    assert (done.exit_code, done.output) == (0, "written deploy/k8s/schemas/kafka.strimzi.io_kafkatopics.yaml\n")
    assert (folder / kept.name).read_text() == kept.read_text()


def test_a_schema_that_is_not_there_ends_with_status_2(tmp_path: Path) -> None:
    done = CliRunner().invoke(k8s, ["schemas", str(tmp_path / "none.yaml"), "--root", str(tmp_path)])
    assert done.exit_code == 2
    assert "none.yaml" in done.output


def test_a_connection_that_the_snapshot_does_not_have_is_named_and_can_be_accepted(
    tmp_path: Path, rendered: dict[str, Rendered], validator: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in ("k8s", "observability"):
        ignored = shutil.ignore_patterns("aifn_k8s", "__pycache__")
        shutil.copytree(ROOT / "deploy" / part, tmp_path / "deploy" / part, ignore=ignored)
    tree = tmp_path / "deploy/k8s"
    for folder in (tree / "overlays").iterdir():
        if folder.name not in ("template-antenna", "dev"):
            shutil.rmtree(folder)
    monkeypatch.setattr(generated, "stale", lambda _: [])
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs/configuration.md", tmp_path / "docs")
    command = ["check", "--root", str(tmp_path)]
    assert CliRunner().invoke(k8s, [*command, "--accept"]).exit_code == 0
    services = tree / "components/network-policies/services.yaml"
    services.write_text(services.read_text().replace("port: 4318", "port: 4317"))
    done = CliRunner().invoke(k8s, command)
    assert done.exit_code == 1
    assert "who may speak to whom has changed: - | otel-collector | 4318 |" in done.output
    assert CliRunner().invoke(k8s, [*command, "--accept"]).exit_code == 0
