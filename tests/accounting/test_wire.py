"""The quick way to read a usage record says what the contract's own parser says, or leaves the word to it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aifn_accounting import wire
from aifn_events.catalog import BY_NAME
from aifn_events.cloudevents import MalformedEvent, headers_of, parse
from aifn_events.publish import schema_of
from aifn_events.usage import UsageReported
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts.instances import instances

PAYLOAD = [name for name in UsageReported.model_fields if name not in ("id", "source", "time", "traceparent")]


@dataclass
class Message:
    """A record as the Kafka client hands it out."""

    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = field(default_factory=list)
    topic: str = UsageReported.topic
    partition: int = 0
    offset: int = 0
    timestamp: int = 0
    key: bytes | None = None


def plain_headers(**changed: bytes | None) -> list[tuple[str, bytes | None]]:
    event = UsageReported.example()
    found = headers_of(event, source="urn:aifn:lumi-aif:siteagent", time=datetime(2026, 11, 21, 9, tzinfo=UTC))
    headers: dict[str, bytes | None] = {name: text.encode() for name, text in found.items()}
    return list((headers | changed).items())


def example(**changed: Any) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(UsageReported.example().model_dump_json())
    return payload | changed


def agree(message: Message) -> bool:
    """Whether the quick way took the message; then it must say what the parser says."""
    plain = wire._read_plain(message)
    if plain is None:
        return False
    event = parse(UsageReported, message.headers, message.value)
    for name in PAYLOAD:
        assert getattr(plain, name) == getattr(event, name), name
    return True


def test_what_our_agents_write_is_read_the_quick_way() -> None:
    assert agree(Message(UsageReported.example().model_dump_json().encode(), plain_headers()))
    assert agree(
        Message(
            json.dumps(example()).encode(), plain_headers(traceparent=b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")
        )
    )
    assert isinstance(wire.read_usage(Message(json.dumps(example()).encode(), plain_headers())), wire.PlainUsage)


@given(payload=instances(schema_of(BY_NAME[UsageReported.topic])))
@settings(max_examples=300, deadline=None)
def test_any_record_of_the_schema_is_read_alike(payload: Any) -> None:
    agree(Message(json.dumps(payload).encode(), plain_headers()))


STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 1.0, 1.5, 2**31, 2**63, 2**63 - 1, 10**30, [], {}),
    *("", " ", "0", "x" * 65, "x" * 64, "UPPER", "a_b", "-a", "a\n", "a/b/c", "a/b/c\n", "ä", "\u0000", "\ud83d\ude00"),
    *({"a/b/c": 1}, {"lumi/lumi-g/gpu-time": -1}, {"lumi/lumi-g/gpu-time": True}, {"lumi/lumi-g/gpu-time": 2**63}),
    *({"a": 1}, {"a/b/c" * 40: 1}, "run", "requeued", "other"),
    *("2026-11-21T09:00:00Z", "2026-11-21T09:00:00.1234567Z", "2026-11-21T09:00:00.9999999Z", "2026-11-21 09:00:00Z"),
    *("2026-11-21t09:00:00z", "2026-11-21T09:00:00+02:00", "2026-11-21T09:00:00-00:00", "2026-11-21T09:00:00"),
    *("2026-11-21", "2026-11-21T23:59:60Z", "2026-11-21T24:00:00Z", "2026-02-30T00:00:00Z", "1700000000"),
    *("0001-01-01T00:00:00+14:00", "2026-11-21T09:00Z", "20261121T090000Z", "2026-11-21T09:00:00,5Z"),
    "9999-12-31T23:59:59.999999Z",
]


@pytest.mark.parametrize("name", PAYLOAD)
def test_a_strange_value_is_never_taken_where_the_parser_refuses_it(name: str) -> None:
    for strange in STRANGE:
        agree(Message(json.dumps(example(**{name: strange})).encode(), plain_headers()))
    left_out = {key: value for key, value in example().items() if key != name}
    agree(Message(json.dumps(left_out).encode(), plain_headers()))


@pytest.mark.parametrize(
    "header", ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type", "traceparent", "other"]
)
def test_strange_headers_are_left_to_the_parser(header: str) -> None:
    value = json.dumps(example()).encode()
    strange = [
        None,
        b"",
        b"\xff",
        b"a\x00b",
        b"1.1",
        b"x" * 300,
        "ä".encode(),
        b"2026-13-01T00:00:00Z",
        b"2026-11-21T09:00:00",
    ]
    for one in strange:
        agree(Message(value, plain_headers(**{header: one})))
    agree(Message(value, [*plain_headers(), (header, b"again")]))
    agree(Message(value, [pair for pair in plain_headers() if pair[0] != header]))


@given(
    value=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: json.dumps({"machine_id": text}).encode())
)
def test_what_is_no_usage_record_is_refused_as_the_parser_refuses_it(value: bytes) -> None:
    with pytest.raises(MalformedEvent):
        wire.read_usage(Message(value, plain_headers()))


def test_a_message_without_value_or_too_large_is_refused() -> None:
    for value in (None, b" " * (1_048_576 + 1)):
        with pytest.raises(MalformedEvent):
            wire.read_usage(Message(value, plain_headers()))


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
@settings(max_examples=500, deadline=None)
def test_no_flipped_byte_is_read_otherwise_than_by_the_parser(position: int, byte: int) -> None:
    value = bytearray(json.dumps(example()).encode())
    value[position % len(value)] = byte
    agree(Message(bytes(value), plain_headers()))
