"""What is generated from the catalogue: current, whole, never silently broken."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from aifn_events import publish
from aifn_events.catalog import BY_NAME, TOPICS, Topic
from aifn_events.cloudevents import parse

ROOT = Path(__file__).parents[2]
EVERY_TOPIC = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
EVERY_GOLDEN = pytest.mark.parametrize(
    "path", sorted((ROOT / publish.EXAMPLES).glob("*.json")), ids=lambda path: path.stem
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with everything written, as after `make schemas`."""
    (tmp_path / "libs/events").mkdir(parents=True)
    publish.write(tmp_path)
    return tmp_path


def edited(path: Path, *place: str, to: Any) -> None:
    """Replace one value in a JSON file; `...` takes it away."""
    whole = json.loads(path.read_text())
    part = whole
    for step in place[:-1]:
        part = part[step]
    if to is ...:
        del part[place[-1]]
    else:
        part[place[-1]] = to
    path.write_text(json.dumps(whole))


def schema_path(root: Path, topic: str) -> Path:
    return root / publish.SCHEMAS / f"{topic}.json"


def test_what_lies_in_the_repository_is_current() -> None:
    assert publish.check(ROOT) == []


def test_there_is_one_golden_message_and_one_schema_for_every_topic() -> None:
    names = {topic.name for topic in TOPICS}
    assert {path.stem for path in (ROOT / publish.EXAMPLES).glob("*.json")} == names
    assert {path.stem for path in (ROOT / publish.SCHEMAS).glob("*.json")} == names


@EVERY_GOLDEN
def test_a_golden_message_still_says_the_same(path: Path) -> None:
    message = json.loads(path.read_text())
    topic = BY_NAME[path.stem]
    headers = [(name, text.encode()) for name, text in message["headers"].items()]
    event = parse(topic.event, headers, json.dumps(message["value"]).encode())
    assert event.model_dump(mode="json", exclude_unset=True) == message["value"]
    assert event.key == message["key"] == message["headers"]["ce_partitionkey"]
    assert (event.id, event.source) == (message["headers"]["ce_id"], message["headers"]["ce_source"])
    assert event.time == publish.GOLDEN_TIME


@EVERY_GOLDEN
def test_a_golden_message_fits_its_published_schema(path: Path) -> None:
    schema = json.loads(schema_path(ROOT, path.stem).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(path.read_text())["value"], schema, jsonschema.Draft202012Validator)


@EVERY_TOPIC
def test_the_key_of_a_topic_is_a_required_text_without_null(topic: Topic) -> None:
    schema = publish.schema_of(topic)
    assert topic.event.key_field in schema["required"]
    assert schema["properties"][topic.event.key_field]["type"] == "string"


@EVERY_TOPIC
def test_attributes_are_not_in_the_schema_of_the_value(topic: Topic) -> None:
    assert not {"id", "source", "time", "traceparent"} & publish.schema_of(topic)["properties"].keys()


@EVERY_TOPIC
def test_the_schema_bears_the_name_that_messages_give_in_their_headers(topic: Topic) -> None:
    assert publish.schema_of(topic)["$id"] == publish.golden_message(topic)["headers"]["ce_dataschema"]


@pytest.mark.parametrize("amounts", [{"gpu-hours": 1}, {"lumi/lumi-g/gpu-time": -1}, {"lumi/lumi-g/gpu-time": "1"}, {}])
def test_a_schema_refuses_amounts_that_the_parser_refuses(amounts: dict[str, Any]) -> None:
    topic = BY_NAME["aifn-usage-reported-v1"]
    value = {**publish.golden_message(topic)["value"], "amounts": amounts}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, publish.schema_of(topic))


def test_written_twice_nothing_changes_and_all_is_current(root: Path) -> None:
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    assert publish.check(root) == []
    assert publish.write(root) == []
    assert {path: path.read_bytes() for path in root.rglob("*.*")} == before
    assert all(text.endswith(b"\n") and b"\r" not in text for text in before.values())


def test_what_is_missing_or_edited_by_hand_is_stale_and_then_written(root: Path) -> None:
    missing, edited_file = f"{publish.EXAMPLES}/aifn-job-placed-v1.json", publish.TABLE
    (root / missing).unlink()
    (root / edited_file).write_text("# Topics\n")
    assert publish.check(root) == [
        f"{missing}: is missing; run `make schemas`",
        f"{edited_file}: is not current; run `make schemas`",
    ]
    assert publish.write(root) == [missing, edited_file]
    assert publish.check(root) == []


def test_a_compatible_change_is_written(root: Path) -> None:
    path = schema_path(root, "aifn-job-ended-v1")
    edited(path, "properties", "detail", to=...)
    assert publish.check(root) == [f"{publish.SCHEMAS}/aifn-job-ended-v1.json: is not current; run `make schemas`"]
    assert publish.write(root) == [f"{publish.SCHEMAS}/aifn-job-ended-v1.json"]
    assert "detail" in json.loads(path.read_text())["properties"]


def test_a_breaking_change_is_refused_with_every_reason_and_nothing_is_written(root: Path) -> None:
    path = schema_path(root, "aifn-job-ended-v1")
    edited(path, "properties", "outcome", "enum", to=["completed", "failed", "timeout", "cancelled"])
    edited(path, "properties", "exit_code", to={"type": "integer"})
    (root / publish.TABLE).write_text("# Topics\n")
    before = path.read_bytes()
    with pytest.raises(publish.BreakingChange) as refused:
        publish.write(root)
    name = f"{publish.SCHEMAS}/aifn-job-ended-v1.json"
    assert refused.value.reasons == [
        f"{name}: exit_code: the optional field was removed; keep it, and say in its description that it is not used",
        f"{name}: outcome: the value 'refused' was added: readers of today refuse new messages with it",
    ]
    assert path.read_bytes() == before
    assert (root / publish.TABLE).read_text() == "# Topics\n"
    found = publish.check(root)
    assert found == [*refused.value.reasons, f"{publish.TABLE}: is not current; run `make schemas`"]


def test_a_published_version_does_not_leave_the_catalogue_unnoticed(root: Path) -> None:
    schema_path(root, "aifn-job-ended-v1").rename(schema_path(root, "aifn-job-finished-v1"))
    with pytest.raises(publish.BreakingChange, match=r"aifn-job-finished-v1\.json: this published version is not in"):
        publish.write(root)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_damaged_schema_is_not_taken_for_a_new_one(root: Path, text: str) -> None:
    schema_path(root, "aifn-job-ended-v1").write_text(text)
    with pytest.raises(publish.BreakingChange, match=r"aifn-job-ended-v1\.json: is no"):
        publish.write(root)


def test_a_golden_message_is_never_written_again(root: Path) -> None:
    path = root / publish.EXAMPLES / "aifn-job-ended-v1.json"
    edited(path, "value", "detail", to="of an older day")
    before = path.read_bytes()
    assert publish.write(root) == []
    assert path.read_bytes() == before


def test_a_golden_message_without_a_younger_optional_field_is_still_good(root: Path) -> None:
    edited(root / publish.EXAMPLES / "aifn-job-ended-v1.json", "value", "detail", to=...)
    assert publish.check(root) == []


@pytest.mark.parametrize(
    ("place", "to", "says"),
    [
        (("value", "outcome"), "exploded", "can no longer be read: outcome: "),
        (("value", "gone"), 1, "is read as something else than it says"),
        (("key",), "another", "its key would now be lumi-aif-0198c7d2"),
        (("headers",), ..., "is not a message of headers, key and value in JSON"),
        (("headers",), [1], "is not a message of headers, key and value in JSON"),
    ],
)
def test_a_golden_message_that_no_longer_reads_the_same_is_named(
    root: Path, place: tuple[str, ...], to: Any, says: str
) -> None:
    edited(root / publish.EXAMPLES / "aifn-job-ended-v1.json", *place, to=to)
    (line,) = publish.check(root)
    assert line.startswith(f"{publish.EXAMPLES}/aifn-job-ended-v1.json: {says}")


def test_the_command_writes_then_finds_all_current(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "libs/events").mkdir(parents=True)
    assert publish.main(["--check", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count(": is missing; run `make schemas`\n") == 2 * len(TOPICS) + 2
    assert publish.main(["--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count(": written\n") == 2 * len(TOPICS) + 2
    assert publish.main(["--check", "--root", str(tmp_path)]) == 0
    assert publish.main(["--root", str(tmp_path)]) == 0
    assert "nothing has changed" in capsys.readouterr().out


def test_the_command_refuses_a_breaking_change_in_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited(schema_path(root, "aifn-job-ended-v1"), "properties", "segments", "maximum", to=9)
    for arguments in (["--root", str(root)], ["--check", "--root", str(root)]):
        assert publish.main(arguments) == 1
        printed = "".join(capsys.readouterr())
        assert "segments: maximum was 9 and is 2147483647, which is wider" in printed
        assert printed.count("\n") == 1


def test_the_command_says_when_it_stands_in_the_wrong_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish.main(["--root", str(tmp_path)]) == 2
    assert "has no libs/events" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_table_names_every_topic_with_its_dead_letters() -> None:
    table = publish.topics_table()
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == len(TOPICS)
    for topic, row in zip(TOPICS, rows, strict=True):
        assert row.startswith(f"| `{topic.name}` |")
        assert f"`{topic.dead_name}`" in row
        assert row.count(" | ") == 7


DOCUMENT: dict[str, Any] = json.loads(publish.asyncapi())


def references(place: Any) -> Iterator[dict[str, Any]]:
    """Every object with a `$ref`, at any depth."""
    if isinstance(place, dict):
        if "$ref" in place:
            yield place
        for part in place.values():
            yield from references(part)
    elif isinstance(place, list):
        for part in place:
            yield from references(part)


def looked_up(ref: str) -> Any:
    place: Any = DOCUMENT
    assert ref.startswith("#/")
    for step in ref[2:].split("/"):
        place = place[step]
    return place


def test_every_reference_of_the_asyncapi_document_leads_somewhere_and_stands_alone() -> None:
    found = list(references(DOCUMENT))
    assert len(found) > 4 * len(TOPICS)
    for place in found:
        assert looked_up(place["$ref"])
        assert place.keys() == {"$ref"}  # draft 7, which AsyncAPI tools read, ignores what stands beside it


def test_the_asyncapi_document_has_the_parts_that_version_3_asks_for() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert DOCUMENT["info"].keys() >= {"title", "version"}
    assert DOCUMENT["channels"].keys() == {topic.name for topic in TOPICS}
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = operation["channel"]["$ref"]
        # An operation names messages by way of its own channel, never by way of components.
        assert all(message["$ref"].startswith(f"{channel}/messages/") for message in operation["messages"])


@EVERY_TOPIC
def test_the_asyncapi_document_says_who_sends_and_who_receives(topic: Topic) -> None:
    found = {
        (operation["action"], operation["tags"][0]["name"])
        for operation in DOCUMENT["operations"].values()
        if operation["channel"]["$ref"] == f"#/channels/{topic.name}"
    }
    assert found == {("send", topic.producer), *(("receive", service) for service in topic.consumers)}


@EVERY_TOPIC
def test_the_examples_of_the_asyncapi_document_fit_its_own_schemas(topic: Topic) -> None:
    message = looked_up(DOCUMENT["channels"][topic.name]["messages"][topic.event.__name__]["$ref"])
    (example,) = message["examples"]
    # References are resolved from the root of the document, so it is the schema, entered at one place.
    payload = {"components": DOCUMENT["components"], "allOf": [message["payload"]]}
    for dialect in (jsonschema.Draft7Validator, jsonschema.Draft202012Validator):
        jsonschema.validate(example["payload"], payload, dialect)
        jsonschema.validate(example["headers"], message["headers"], dialect)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({}, payload, dialect)
    key = message["bindings"]["kafka"]["key"]
    jsonschema.validate(example["payload"][topic.event.key_field], key)


@EVERY_TOPIC
def test_the_asyncapi_document_has_the_settings_of_the_topic_on_the_broker(topic: Topic) -> None:
    kafka = DOCUMENT["channels"][topic.name]["bindings"]["kafka"]
    assert (kafka["topic"], kafka["partitions"]) == (topic.name, topic.partitions)
    settings = {k: ",".join(v) if isinstance(v, list) else str(v) for k, v in kafka["topicConfiguration"].items()}
    assert settings == topic.settings()
