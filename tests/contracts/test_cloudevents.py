"""Reading a message: what is refused and why, and that nothing else than a refusal can come out."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from aifn_events.base import Event, Payload
from aifn_events.catalog import BY_NAME, TOPICS, Topic
from aifn_events.cloudevents import MAX_VALUE_BYTES, MalformedEvent, headers_of, parse
from aifn_events.placement import JobDispatched, JobEnded
from aifn_events.publish import schema_of
from aifn_events.registry import MachineDescribed
from aifn_events.usage import UsageReported
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contracts.instances import instances

NOW = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
SOURCE = "urn:aifn:lumi-aif:siteagent"
Headers = list[tuple[str, bytes | None]]

EVERY_TOPIC = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)


def headers(event: Event, **changed: bytes | None) -> Headers:
    """Headers of an event; `changed` by name, with `content_type` for `content-type`."""
    made: dict[str, bytes | None] = {k: v.encode() for k, v in headers_of(event, source=SOURCE, time=NOW).items()}
    made |= {name.replace("content_type", "content-type"): value for name, value in changed.items()}
    return list(made.items())


def without(made: Headers, name: str) -> Headers:
    return [(key, value) for key, value in made if key != name]


def value_of(event: Event, **changed: Any) -> bytes:
    return json.dumps(event.model_dump(mode="json") | changed).encode()


def refusal(kind: type[Event], made: Headers, value: bytes | None) -> str:
    with pytest.raises(MalformedEvent) as caught:
        parse(kind, made, value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 1000
    return caught.value.code


ENDED = JobEnded.example()
USED = UsageReported.example()


@EVERY_TOPIC
def test_what_was_written_is_read_again_with_its_attributes(topic: Topic) -> None:
    event = topic.event.example(traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    made = headers(event, traceparent=(event.traceparent or "").encode())
    read = parse(topic.event, made, event.model_dump_json().encode())
    assert read.model_dump() == event.model_dump()
    assert (read.id, read.source, read.time) == (event.id, SOURCE, NOW)
    assert read.traceparent == event.traceparent
    assert read.key == event.key


@EVERY_TOPIC
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_whatever_the_published_schema_allows_is_read_and_written_the_same(topic: Topic, data: st.DataObject) -> None:
    value = data.draw(instances(schema_of(topic)))
    made = headers(topic.event.example())
    read = parse(topic.event, made, json.dumps(value).encode())
    assert read.model_dump(mode="json", exclude_unset=True) == value
    again = parse(topic.event, made, read.model_dump_json().encode())
    assert again == parse(topic.event, made, json.dumps(read.model_dump(mode="json")).encode())
    assert again.model_dump() == read.model_dump()


@EVERY_TOPIC
def test_a_field_nobody_knows_is_ignored(topic: Topic) -> None:
    event = topic.event.example()
    read = parse(topic.event, headers(event), value_of(event, from_the_future={"a": [1, None]}))
    assert read.model_dump() == event.model_dump()


@pytest.mark.parametrize("name", ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time"])
def test_a_missing_or_empty_attribute_is_refused(name: str) -> None:
    assert refusal(JobEnded, without(headers(ENDED), name), value_of(ENDED)) == "attribute_missing"
    assert refusal(JobEnded, headers(ENDED, **{name: b""}), value_of(ENDED)) == "attribute_missing"


@pytest.mark.parametrize("name", ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_partitionkey"])
def test_a_header_that_is_null_twice_undecodable_or_has_control_characters_is_refused(name: str) -> None:
    value = value_of(ENDED)
    assert refusal(JobEnded, headers(ENDED, **{name: None}), value) == "header_null"
    assert refusal(JobEnded, [*headers(ENDED), (name, b"again")], value) == "header_repeated"
    assert refusal(JobEnded, headers(ENDED, **{name: b"\xff\xfe"}), value) == "header_not_utf8"
    assert refusal(JobEnded, headers(ENDED, **{name: b"a\0b"}), value) == "header_control"
    assert refusal(JobEnded, headers(ENDED, **{name: b"a\nb"}), value) == "header_control"
    assert refusal(JobEnded, headers(ENDED, **{name: b"\xed\xa0\x80"}), value) == "header_not_utf8"


def test_headers_of_others_may_be_null_repeated_or_not_text() -> None:
    foreign: Headers = [("x-a", None), ("x-a", b"\xff"), ("reply_to", b"somewhere"), ("", b"")]
    assert parse(JobEnded, headers(ENDED) + foreign, value_of(ENDED)).id == ENDED.id


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"ce_specversion": b"0.3"}, "unknown_version"),
        ({"ce_type": b"eu.aifn.job-ended.v2"}, "unknown_version"),
        ({"ce_type": b"eu.aifn.job-started.v1"}, "wrong_type"),
        ({"ce_type": b"v1"}, "wrong_type"),
        ({"content_type": b"application/cloudevents+json"}, "not_json"),
        ({"content_type": b"application/jsonlines"}, "not_json"),
        ({"content_type": b"avro/binary"}, "not_json"),
        ({"ce_time": b"yesterday"}, "invalid_payload"),
        ({"ce_time": b"2026-11-21T09:00:00"}, "invalid_payload"),
        ({"ce_time": b"1700000000"}, "invalid_payload"),
        ({"ce_time": b"0001-01-01T00:00:00+14:00"}, "invalid_payload"),
        ({"ce_id": b"x" * 129}, "invalid_payload"),
        ({"ce_source": b"x" * 256}, "invalid_payload"),
        ({"traceparent": b"x" * 65}, "invalid_payload"),
    ],
)
def test_a_header_that_promises_something_else_is_refused(changed: dict[str, bytes], code: str) -> None:
    assert refusal(JobEnded, headers(ENDED, **changed), value_of(ENDED)) == code


@pytest.mark.parametrize("content_type", [b"application/json; charset=utf-8", b"Application/JSON", b"application/json"])
def test_json_may_be_announced_in_several_ways_or_not_at_all(content_type: bytes) -> None:
    assert parse(JobEnded, headers(ENDED, content_type=content_type), value_of(ENDED)).id == ENDED.id
    assert parse(JobEnded, without(headers(ENDED), "content-type"), value_of(ENDED)).id == ENDED.id


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "no_value"),
        (b"", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"not json", "not_json"),
        (b'{"job_id": ', "not_json"),
        (b'{"job_id": NaN}', "not_json"),
        (b'{"job_id": Infinity}', "not_json"),
        (b'{"job_id": "\\ud800"}', "not_json"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not_json"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "not_json"),
        (b'{"segments": ' + b"9" * 100_000 + b"}", "not_json"),
        (b"null", "invalid_payload"),
        (b"[]", "invalid_payload"),
        (b'"text"', "invalid_payload"),
        (b"12", "invalid_payload"),
        (b"{}", "invalid_payload"),
        (b" " * (MAX_VALUE_BYTES + 1), "too_large"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_value_that_is_no_json_object_of_the_event_is_refused(value: bytes | None, code: str) -> None:
    assert refusal(JobEnded, headers(ENDED), value) == code


@pytest.mark.parametrize(
    "changed",
    [
        {"nodes": True},
        {"nodes": 1.0},
        {"nodes": "1"},
        {"nodes": -1},
        {"nodes": 2**31},
        {"nodes": 10**40},
        {"nodes": None},
        {"amounts": {"lumi/lumi-g/gpu-time": 2**63}},
        {"amounts": {"lumi/lumi-g/gpu-time": -1}},
        {"amounts": {"lumi/lumi-g/gpu-time": 1.5}},
        {"amounts": {"gpu-hours": 1}},
        {"amounts": {"lumi/lumi-g/gpu-time\n": 1}},
        {"amounts": {"\0": 1}},
        {"amounts": {f"lumi/lumi-g/{'x' * 200}": 1}},
        {"amounts": {}},
        {"amounts": {f"lumi/lumi-g/r{n}": 1 for n in range(17)}},
        {"amounts": [1]},
        {"started_at": "2026-11-21T09:00:00"},
        {"started_at": "2026-11-21"},
        {"started_at": "1700000000"},
        {"started_at": 1_700_000_000},
        {"started_at": 1.7e9},
        {"started_at": True},
        {"started_at": "0001-01-01T00:00:00+14:00"},
        {"started_at": "9999-12-31T23:59:59-14:00"},
        {"project_id": "AIF 2026"},
        {"project_id": "aif-2026-0117\n"},
        {"project_id": ["aif-2026-0117"]},
        {"kind": "paused"},
        {"state": "x" * 65},
        {"state": "COMPLETED\0"},
        {"local_job_id": ""},
    ],
    ids=lambda changed: str(changed)[:60],
)
def test_a_field_outside_its_contract_is_refused(changed: dict[str, Any]) -> None:
    assert refusal(UsageReported, headers(USED), value_of(USED, **changed)) == "invalid_payload"


@pytest.mark.parametrize("field", ["nodes", "slices", "walltime_seconds"])
def test_a_job_without_nodes_slices_or_time_is_refused(field: str) -> None:
    event = JobDispatched.example()
    assert refusal(JobDispatched, headers(event), value_of(event, **{field: 0})) == "invalid_payload"


def test_yes_is_not_true() -> None:
    event = MachineDescribed.example()
    assert refusal(MachineDescribed, headers(event), value_of(event, retired="yes")) == "invalid_payload"
    assert refusal(MachineDescribed, headers(event), value_of(event, retired=1)) == "invalid_payload"


def test_the_words_for_a_nul_are_not_a_nul() -> None:
    event = JobEnded.example(detail="a backslash: \\u0000")
    assert parse(JobEnded, headers(event), value_of(event)).detail == "a backslash: \\u0000"


@pytest.mark.parametrize("hostile", ["evil", 5, None, {"a": 1}, "x" * 300])
def test_attributes_inside_the_value_neither_win_nor_spoil_the_message(hostile: Any) -> None:
    value = value_of(ENDED, id=hostile, source=hostile, time=hostile, traceparent=hostile)
    read = parse(JobEnded, headers(ENDED), value)
    assert (read.id, read.source, read.time, read.traceparent) == (ENDED.id, SOURCE, NOW, None)
    assert read.model_dump() == ENDED.model_dump()


def test_a_moment_of_another_zone_is_kept_in_utc() -> None:
    read = parse(JobEnded, headers(ENDED), value_of(ENDED, ended_at="2026-11-21T11:50:10+02:00"))
    assert read.model_dump(mode="json")["ended_at"] == "2026-11-21T09:50:10Z"


def contracts(above: type[Payload] = Payload) -> Iterator[type[Payload]]:
    """Every event, and every part of one."""
    for kind in above.__subclasses__():
        yield kind
        yield from contracts(kind)


@pytest.mark.parametrize("kind", list(contracts()), ids=lambda kind: kind.__name__)
def test_no_bound_of_a_field_is_lost_to_another_one_of_its_type(kind: type[Payload]) -> None:
    for name, field in kind.model_fields.items():
        rules = [type(rule) for rule in field.metadata if type(rule).__module__ == "annotated_types"]
        assert len(rules) == len(set(rules)), f"{name}: only one of two rules of one kind is in force"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ANY_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["ce_id", "ce_source", "ce_type", "ce_time", "ce_specversion", "traceparent", "content-type"])
        | st.text(max_size=20),
        st.none() | st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode(errors="replace")),
    ),
    max_size=9,
)


def reads_or_refuses(kind: type[Event], made: Headers, value: bytes | None) -> None:
    """Any other exception than MalformedEvent fails the test that calls this."""
    try:
        read = parse(kind, made, value)
    except MalformedEvent as wrong:
        refused = wrong
    else:
        assert isinstance(read, kind)
        assert "\\x00" not in repr(read.model_dump()).replace("\\\\", "")
        assert read.time.tzinfo is UTC
        return
    assert refused.code
    assert str(refused).isprintable()
    assert len(str(refused)) <= 1000


@settings(max_examples=100, deadline=None)
@given(made=ANY_HEADERS, value=st.none() | st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_any_headers_and_any_value_are_read_or_refused(made: Headers, value: bytes | None) -> None:
    reads_or_refuses(JobEnded, made, value)


@settings(max_examples=100, deadline=None)
@given(topic=st.sampled_from(TOPICS), data=st.data())
def test_an_example_with_any_of_its_fields_spoilt_is_read_or_refused(topic: Topic, data: st.DataObject) -> None:
    event = topic.event.example()
    names = st.sampled_from([*topic.event.model_fields, "unknown"])
    spoilt = data.draw(st.dictionaries(names, JSON, min_size=1, max_size=3))
    reads_or_refuses(topic.event, headers(event), value_of(event, **spoilt))


@settings(max_examples=100, deadline=None)
@given(place=st.integers(min_value=0), cut=st.integers(0, 8), put=st.binary(max_size=8))
def test_a_value_with_bytes_cut_out_or_put_in_is_read_or_refused(place: int, cut: int, put: bytes) -> None:
    whole = value_of(USED)
    at = place % len(whole)
    reads_or_refuses(UsageReported, headers(USED), whole[:at] + put + whole[at + cut :])


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(["ce_id", "ce_source", "ce_type", "ce_time", "traceparent"]), raw=st.binary(max_size=300))
def test_any_bytes_in_one_header_are_read_or_refused(name: str, raw: bytes) -> None:
    reads_or_refuses(JobEnded, headers(ENDED, **{name: raw}), value_of(ENDED))


def test_every_topic_is_found_by_its_name() -> None:
    assert [BY_NAME[topic.name] for topic in TOPICS] == list(TOPICS)
