"""CloudEvents 1.0, Kafka binary mode: attributes in `ce_` headers, the payload alone as value.

Source: CloudEvents 1.0.2, Kafka protocol binding, section 3.2. Key is the `partitionkey` extension.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

from pydantic import ValidationError

from aifn_events.base import Event

E = TypeVar("E", bound=Event)
Headers = Iterable[tuple[str, bytes | None]]
CONTENT_TYPE = "application/json"
MAX_VALUE_BYTES = 1_048_576


class MalformedEvent(ValueError):
    """A message that can never be read as the event its topic promises. `code` says why, for machines."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def headers_of(event: Event, *, source: str, time: datetime) -> dict[str, str]:
    """The CloudEvents attributes of an event as text headers, without trace context."""
    return {
        "ce_specversion": "1.0",
        "ce_id": event.id,
        "ce_source": source,
        "ce_type": event.type_name(),
        "ce_time": time.isoformat().replace("+00:00", "Z"),
        "ce_partitionkey": event.key,
        "ce_dataschema": f"urn:aifn:schema:{event.topic}",
        "content-type": CONTENT_TYPE,
    }


def read_attributes(headers: Headers) -> dict[str, str]:
    """Decode headers; a null, repeated or undecodable `ce_` header is a MalformedEvent, a foreign one is left out."""
    found: dict[str, str] = {}
    for name, raw in headers:
        ours = name.startswith("ce_") or name in ("content-type", "traceparent")
        if not ours:
            continue
        if raw is None:
            raise MalformedEvent("header_null", f"header {name} has no value")
        if name in found:
            raise MalformedEvent("header_repeated", f"header {name} stands twice")
        try:
            found[name] = raw.decode()
        except UnicodeDecodeError:
            raise MalformedEvent("header_not_utf8", f"header {name} is not UTF-8") from None
    return found


def parse(kind: type[E], headers: Headers, value: bytes | None) -> E:
    """Join headers and value into an event of the given kind.

    Raises: MalformedEvent, with one of the codes header_*, attribute_missing, unknown_version, wrong_type,
        not_json, too_large, no_value, invalid_payload.
    """
    found = read_attributes(headers)
    for name in ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time"):
        if not found.get(name):
            raise MalformedEvent("attribute_missing", f"header {name} is missing or empty")
    if found["ce_specversion"] != "1.0":
        raise MalformedEvent("unknown_version", f"CloudEvents {found['ce_specversion'][:16]} is not known here")
    expected, actual = kind.type_name(), found["ce_type"]
    if actual != expected:
        same_fact = actual.rsplit(".", 1)[0] == expected.rsplit(".", 1)[0]
        code = "unknown_version" if same_fact else "wrong_type"
        raise MalformedEvent(code, f"{actual[:80]} does not belong on {kind.topic}")
    if not found.get("content-type", CONTENT_TYPE).startswith(CONTENT_TYPE):
        raise MalformedEvent("not_json", f"content type {found['content-type'][:60]} is not {CONTENT_TYPE}")
    if value is None:
        raise MalformedEvent("no_value", f"a message without value on {kind.topic}")
    if len(value) > MAX_VALUE_BYTES:
        raise MalformedEvent("too_large", f"{len(value)} bytes are more than {MAX_VALUE_BYTES}")
    try:
        event = kind.model_validate_json(value)
        attributes = _Attributes.model_validate(
            {
                "id": found["ce_id"],
                "source": found["ce_source"],
                "time": found["ce_time"],
                "traceparent": found.get("traceparent"),
            }
        )
    except ValidationError as wrong:
        raise MalformedEvent("invalid_payload", _in_words(wrong)) from None
    return event.model_copy(
        update={
            "id": attributes.id,
            "source": attributes.source,
            "time": attributes.time,
            "traceparent": attributes.traceparent,
        }
    )


class _Attributes(Event):
    """Only the attributes of an event, to check them by the same rules."""


def _in_words(wrong: ValidationError) -> str:
    parts = [
        f"{'.'.join(str(p) for p in e['loc']) or 'value'}: {e['msg']}" for e in wrong.errors(include_url=False)[:5]
    ]
    return "; ".join(parts)[:1000]
