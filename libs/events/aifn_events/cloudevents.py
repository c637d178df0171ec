"""CloudEvents 1.0, Kafka binary mode: attributes in `ce_` headers, the payload alone as value.

Source: CloudEvents 1.0.2, Kafka protocol binding, section 3.2. Key is the `partitionkey` extension.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from aifn_events.base import ATTRIBUTES, Event

E = TypeVar("E", bound=Event)
Headers = Iterable[tuple[str, bytes | None]]
CONTENT_TYPE = "application/json"
MAX_VALUE_BYTES = 1_048_576
_OURS_TOO = ("content-type", "traceparent")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class MalformedEvent(ValueError):
    """A message that can never be read as the event its topic promises. `code` says why, for machines."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def headers_of(event: Event, *, source: str, time: datetime) -> dict[str, str]:
    """The CloudEvents attributes of an event as text headers, without trace context."""
    return attributes_of(type(event), event.id, event.key, source=source, time=time)


def attributes_of(kind: type[Event], event_id: str, key: str, *, source: str, time: datetime) -> dict[str, str]:
    """The same for an event whose payload has been written already."""
    return {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_source": source,
        "ce_type": kind.type_name(),
        "ce_time": time.isoformat().replace("+00:00", "Z"),
        "ce_partitionkey": key,
        "ce_dataschema": f"urn:aifn:schema:{kind.topic}",
        "content-type": CONTENT_TYPE,
    }


def read_attributes(headers: Headers) -> dict[str, str]:
    """Decode headers; a null, repeated or undecodable `ce_` header is a MalformedEvent, a foreign one is left out."""
    found: dict[str, str] = {}
    for name, raw in headers:
        if not (name.startswith("ce_") or name in _OURS_TOO):
            continue
        if raw is None:
            raise MalformedEvent("header_null", f"header {_shown(name)} has no value")
        if name in found:
            raise MalformedEvent("header_repeated", f"header {_shown(name)} stands twice")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise MalformedEvent("header_not_utf8", f"header {_shown(name)} is not UTF-8") from None
        # CloudEvents 1.0.2, section 2.4: a String has no control characters. PostgreSQL cannot keep a NUL at all.
        # Nearly every text is printable, and that is quickly told.
        if not text.isprintable() and _CONTROL.search(text):
            raise MalformedEvent("header_control", f"header {_shown(name)} has a control character")
        found[name] = text
    return found


def _shown(name: str) -> str:
    return _printable(name[:60])


def parse(kind: type[E], headers: Headers, value: bytes | None) -> E:
    """Join headers and value into an event of the given kind. Attributes come from the headers, and only from there.

    Raises: MalformedEvent, and nothing else, with one of the codes header_null, header_repeated, header_not_utf8,
        header_control, attribute_missing, unknown_version, wrong_type, not_json, too_large, no_value, invalid_payload.
    """
    found = read_attributes(headers)
    _check_promises(kind, found)
    if value is None:
        raise MalformedEvent("no_value", f"a message without value on {kind.topic}")
    if len(value) > MAX_VALUE_BYTES:
        raise MalformedEvent("too_large", f"{len(value)} bytes are more than {MAX_VALUE_BYTES}")
    try:
        # The parser behind it has a limit of its own for depth and for digits, so neither can exhaust this process.
        body = from_json(value, allow_inf_nan=False)
    except ValueError as wrong:
        raise MalformedEvent("not_json", f"the value is not JSON: {_printable(str(wrong))[:200]}") from None
    if not isinstance(body, dict):
        raise MalformedEvent("invalid_payload", f"the value is a JSON {type(body).__name__}, not an object")
    for name in ATTRIBUTES:
        body.pop(name, None)
    body |= {"id": found["ce_id"], "source": found["ce_source"], "time": found["ce_time"]}
    if "traceparent" in found:
        body["traceparent"] = found["traceparent"]
    try:
        event = kind.model_validate(body)
    except ValidationError as wrong:
        raise MalformedEvent("invalid_payload", _in_words(wrong)) from None
    # The first test is cheap and almost always enough: a NUL in JSON can only be written as this escape.
    if b"\\u0000" in value and _has_nul(event.model_dump()):
        raise MalformedEvent("invalid_payload", "a text has a NUL character, which no database of ours can keep")
    return event


def _check_promises(kind: type[Event], found: dict[str, str]) -> None:
    """Refuse headers that are incomplete, or promise something else than an event of this kind in JSON."""
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
    content_type = found.get("content-type", CONTENT_TYPE)
    if content_type.partition(";")[0].strip().lower() != CONTENT_TYPE:
        raise MalformedEvent("not_json", f"content type {content_type[:60]} is not {CONTENT_TYPE}")


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(_has_nul(part) for part in value)


def _in_words(wrong: ValidationError) -> str:
    errors = wrong.errors(include_url=False, include_context=False, include_input=False)[:5]
    parts = [f"{'.'.join(str(p)[:80] for p in e['loc']) or 'value'}: {e['msg']}" for e in errors]
    return _printable("; ".join(parts))[:1000]


def _printable(text: str) -> str:
    """What a sender wrote may end up in a log or a database, so control characters become question marks."""
    return "".join(c if c.isprintable() else "?" for c in text)
