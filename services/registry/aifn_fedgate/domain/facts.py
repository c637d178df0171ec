"""The payload of an envelope: one CloudEvents 1.0 event in JSON, checked only after its signature held.

`sequence` repeats the place in the log for plain readers; `partitionkey` is the record's key, which the header holds as
a hash; `recipient` names the one member who can open a sealed fact.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from aifn_events.base import Event
from aifn_events.federation import FACTS, STREAMS
from aifn_events.vocabulary import Moment
from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from aifn_fedgate.domain.envelope import Envelope, Malformed, hash_of

PLAIN = "application/json"
SEALED = "application/jose"
MOST_KEY = 512
AHEAD = timedelta(minutes=10)
_TYPE = re.compile(r"eu\.aifn\.[a-z][a-z-]{0,60}\.v[1-9][0-9]{0,3}")
_MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)
OpenSealed = Callable[[str], bytes]
"""Decrypt what was sealed to this member. Raises ValueError."""
Kinds = Mapping[str, Mapping[str, type[Event]]]
"""Which facts this program knows, by stream and CloudEvents type."""


class UnknownFact(Exception):
    """A fact of a kind or version that this program does not know yet."""


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact that was signed by its owner. `event` is None for what was sealed to somebody else."""

    key: str
    type: str
    id: str
    source: str
    time: datetime
    retired: bool
    ahead: bool
    event: Event | None


def write_payload(event: Event, *, key: str, seq: int, sealed: str | None = None, recipient: str = "") -> bytes:
    """A fact as the JSON bytes that are signed. `sealed` takes the place of its data."""
    said: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type_name(),
        "time": event.time.isoformat().replace("+00:00", "Z"),
        "datacontenttype": PLAIN if sealed is None else SEALED,
        "dataschema": f"urn:aifn:schema:{event.topic}",
        "partitionkey": key,
        "sequence": sequence_text(seq),
    }
    if sealed is not None:
        said["recipient"] = recipient
    said["data"] = event.model_dump(mode="json") if sealed is None else sealed
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()


def renumber(payload: bytes, seq: int) -> bytes:
    """The same fact at another place of the log. Raises Malformed if it is none."""
    return json.dumps(
        _body(payload) | {"sequence": sequence_text(seq)}, separators=(",", ":"), ensure_ascii=False
    ).encode()


def key_of(payload: bytes) -> str:
    """The record key of a fact. Raises Malformed."""
    return _said(_body(payload), "partitionkey", MOST_KEY)


def sequence_text(seq: int) -> str:
    """A sequence number as plain readers sort it.

    >>> sequence_text(42)
    '0000000000000042'
    """
    return f"{seq:016d}"


def read_fact(envelope: Envelope, me: str, kinds: Kinds = FACTS, *, now: datetime, open_sealed: OpenSealed) -> Fact:
    """Read what an authentic envelope says.

    Raises: Malformed for what can never be right; UnknownFact for what a later program may know.
    """
    header = envelope.header
    said = _body(envelope.payload)
    key, name, source = _said(said, "partitionkey", MOST_KEY), _said(said, "type", 120), _said(said, "source", 255)
    _check_key(key, header.origin, header.key_hash)
    if source.split(":")[:3] != ["urn", "aifn", header.origin] or len(source.split(":")) != 4:
        raise Malformed("wrong_source", f"{source[:80]} does not speak for {header.origin}")
    if said.get("sequence") != sequence_text(header.seq):
        raise Malformed("wrong_sequence", "the sequence in the event is not that of the envelope")
    if _TYPE.fullmatch(name) is None:
        raise Malformed("wrong_type", f"{name[:80]} is no fact of ours")
    kind = kinds.get(header.stream, {}).get(name)
    if kind is None:
        raise UnknownFact(f"{name} on {header.stream} is not known here")
    time = _time(said)
    data = _data(said, header.stream, me, open_sealed)
    event = None if data is None else _event(kind, data, said)
    if event is not None and bool(getattr(event, "retired", False)) != header.retired:
        raise Malformed("wrong_retirement", "header and fact do not agree on whether the thing is retired")
    return Fact(key, name, str(said["id"]), source, time, header.retired, time > now + AHEAD, event)


def _body(payload: bytes) -> dict[str, Any]:
    try:
        said = from_json(payload, allow_inf_nan=False)
    except ValueError:
        raise Malformed("not_json", "the payload is not JSON") from None
    if not isinstance(said, dict) or said.get("specversion") != "1.0":
        raise Malformed("not_cloudevents", "the payload is not a CloudEvents 1.0 event")
    _said(said, "id", 128)
    return said


def _said(said: dict[str, Any], name: str, most: int) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise Malformed("attribute_missing", f"{name} is missing, too long or not printable")
    return value


def _check_key(key: str, origin: str, key_hash: bytes) -> None:
    if not key.startswith(f"{origin}/") or len(key) == len(origin) + 1:
        raise Malformed("foreign_key", f"the key does not begin with {origin}/")
    if hash_of(key.encode()) != key_hash:
        raise Malformed("wrong_key", "the key is not the one whose hash was signed")


def _time(said: dict[str, Any]) -> datetime:
    try:
        return _MOMENT.validate_python(said.get("time"))
    except ValidationError:
        raise Malformed("wrong_time", "the time is no moment") from None


def _data(said: dict[str, Any], stream: str, me: str, open_sealed: OpenSealed) -> Any:
    """The fact's own JSON; None for what was sealed to another."""
    sealed = STREAMS[stream].sealed
    if said.get("datacontenttype") != (SEALED if sealed else PLAIN):
        raise Malformed("wrong_content_type", f"facts on {stream} are {'sealed' if sealed else 'plain JSON'}")
    data = said.get("data")
    if not sealed:
        if not isinstance(data, dict):
            raise Malformed("invalid_data", "the data is not a JSON object")
        return data
    recipient = _said(said, "recipient", 20)
    if not isinstance(data, str):
        raise Malformed("not_sealed", "a sealed fact is one text")
    if recipient != me:
        return None
    try:
        return from_json(open_sealed(data), allow_inf_nan=False)
    except ValueError:
        raise Malformed("cannot_open", "what was sealed to us cannot be opened") from None


def _event(kind: type[Event], data: Any, said: dict[str, Any]) -> Event:
    if not isinstance(data, dict):
        raise Malformed("invalid_data", "the data is not a JSON object")
    try:
        return kind.model_validate(data | {"id": said["id"], "source": said["source"], "time": said["time"]})
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part)[:60] for part in first["loc"]) or "data"
        raise Malformed("invalid_data", f"{where}: {first['msg']}"[:300]) from None
