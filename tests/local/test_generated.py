"""What is made from code is current, and a file that is not is named."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from aifn_common.settings import ServiceSettings, is_secret
from aifn_local import generated
from aifn_local.factory import API_SERVICES, service_of
from aifn_local.fleet import ROOMS
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
app = typer.Typer()
app.command()(generated.schemas)


def test_every_generated_file_in_the_repository_is_current() -> None:
    result = CliRunner().invoke(app, ["--check", "--root", str(ROOT)])
    assert (result.exit_code, result.output) == (0, "")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The parts of the repository that are generated."""
    for part in ("docs", "libs/events", "deploy/observability"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", ".venv", "dist"))
    return tmp_path


def test_a_file_that_was_edited_or_is_missing_is_named_and_then_made_again(copy: Path) -> None:
    table, document = copy / "docs/configuration.md", copy / "docs/openapi/skills.json"
    before = table.read_text()
    table.write_text(before + "by hand\n")
    document.unlink()
    checked = CliRunner().invoke(app, ["--check", "--root", str(copy)])
    assert checked.exit_code == 1
    assert [line.split(":")[0] for line in checked.output.splitlines()] == [
        "docs/openapi/skills.json",
        "docs/configuration.md",
    ]
    assert not document.exists(), "a check writes nothing"

    written = CliRunner().invoke(app, ["--root", str(copy)])
    assert written.exit_code == 0, written.output
    assert table.read_text() == before
    assert CliRunner().invoke(app, ["--check", "--root", str(copy)]).exit_code == 0


def test_the_table_has_every_setting_of_every_service_with_its_meaning() -> None:
    text = generated.settings_table()
    for room in ROOMS:
        for name, field in service_of(room).settings.model_fields.items():
            assert field.description, f"{room}: {name} has no description"
            or_file = f"<br>`AIFN_{name.upper()}_FILE`" if is_secret(field) else ""
            assert f"| `AIFN_{name.upper()}`{or_file} | {field.description} |" in text
    meaning = "bootstrap servers, host:port, with commas between"
    assert f"| `AIFN_KAFKA` | {meaning} | **required** | `kafka:9092` |" in text
    assert text.count("`AIFN_KAFKA`") == 1, "what all services share stands once"
    assert len(ServiceSettings.model_fields) > 10


@pytest.mark.parametrize("room", API_SERVICES)
def test_the_documents_are_openapi_3_1_under_v1_and_say_what_they_answer(room: str) -> None:
    document = json.loads(generated.openapi(room))
    assert document["openapi"].startswith("3.1")
    assert document["paths"]
    for path, operations in document["paths"].items():
        assert path.startswith("/v1/"), path
        assert all(operation["summary"] for operation in operations.values())
