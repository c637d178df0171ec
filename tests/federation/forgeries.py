"""Messages that must not be believed: forged, altered, truncated, replayed, foreign, oversized, of another time.

Each forgery is made after two honest envelopes were accepted, and says what must become of it.
"""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from aifn_events.access import AwardGranted, CallPublished
from aifn_events.datalab import DatasetDescribed
from aifn_events.registry import FactoryDescribed, MachineDescribed
from aifn_events.shares import ShareHeadroomChanged
from aifn_fedgate.domain.envelope import Envelope, from_base64, to_base64
from aifn_fedgate.domain.facts import write_payload
from aifn_fedgate.signing import OnlineKeys, seal

from tests.federation.make import Federation, Writer, capacity


@dataclass(frozen=True)
class Forged:
    """Bytes, the way they come, and what must become of them."""

    raw: bytes | None
    verdict: str
    code: str
    way: dict[str, Any] = field(default_factory=dict)


Make = Callable[["Scene"], Forged]
FORGERIES: dict[str, Make] = {}


@dataclass
class Scene:
    """A federation in which `first` and `second` of lumi-aif's capacity were accepted by bsc-aif."""

    federation: Federation
    writer: Writer
    first: Envelope
    second: Envelope

    @classmethod
    def set(cls, federation: Federation) -> "Scene":
        """Sign the two honest envelopes."""
        writer = federation.writer("lumi-aif")
        return cls(federation, writer, writer.next(capacity()), writer.next(capacity(idle=9)))


def forgery(make: Make) -> Make:
    """Register one class of bad messages by the name of its function."""
    FORGERIES[make.__name__] = make
    return make


def _header(envelope: Envelope, **changed: Any) -> bytes:
    """The envelope with another header and the old signature."""
    head, body, signature = envelope.raw.split(b".")
    said = json.loads(from_base64(head)) | changed
    said = {name: value for name, value in said.items() if value is not ...}
    return to_base64(json.dumps(said, separators=(",", ":")).encode()).encode() + b"." + body + b"." + signature


def _raw_header(scene: Scene, text: bytes) -> bytes:
    """A header of any bytes, properly signed by the owner's key."""
    signed = to_base64(text).encode() + b"." + scene.writer.peek().raw.split(b".")[1]
    return signed + b"." + to_base64(scene.writer.keys.signing.sign(signed)).encode()


def _signed(
    scene: Scene, code: str, payload: bytes, *, verdict: str = "quarantined", key: str = "", **header: Any
) -> Forged:
    return Forged(scene.writer.peek(key=key, payload=payload, **header).raw, verdict, code)


def _payload(scene: Scene, **changed: Any) -> bytes:
    said = json.loads(write_payload(capacity(), key="lumi-aif/lumi-g", seq=3)) | changed
    return json.dumps({name: value for name, value in said.items() if value is not ...}).encode()


# What is no envelope at all


@forgery
def null_value(scene: Scene) -> Forged:
    return Forged(None, "quarantined", "null_value")


@forgery
def empty_value(scene: Scene) -> Forged:
    return Forged(b"", "quarantined", "not_compact")


@forgery
def plain_json_without_envelope(scene: Scene) -> Forged:
    return Forged(capacity().model_dump_json().encode(), "quarantined", "not_compact")


@forgery
def random_bytes(scene: Scene) -> Forged:
    return Forged(bytes(range(256)), "quarantined", "not_compact")


@forgery
def two_parts(scene: Scene) -> Forged:
    return Forged(scene.writer.peek().raw.rpartition(b".")[0], "quarantined", "not_compact")


@forgery
def four_parts(scene: Scene) -> Forged:
    return Forged(scene.writer.peek().raw + b".AAAA", "quarantined", "not_compact")


@forgery
def truncated_in_the_signature(scene: Scene) -> Forged:
    return Forged(scene.writer.peek().raw[:-6], "quarantined", "wrong_signature_length")


@forgery
def truncated_in_the_payload(scene: Scene) -> Forged:
    head, body, signature = scene.writer.peek().raw.split(b".")
    return Forged(b".".join((head, body[:-8], signature)), "quarantined", "wrong_signature")


@forgery
def oversized(scene: Scene) -> Forged:
    return Forged(b"A" * 262_145, "quarantined", "too_large")


@forgery
def gzip_of_an_envelope(scene: Scene) -> Forged:
    return Forged(gzip.compress(scene.writer.peek().raw).replace(b".", b"_"), "quarantined", "not_compact")


@forgery
def gzip_bomb_of_a_million_bytes(scene: Scene) -> Forged:
    return Forged(gzip.compress(b"0" * 50_000_000).replace(b".", b"_"), "quarantined", "not_compact")


@forgery
def line_break_at_the_end(scene: Scene) -> Forged:
    return Forged(scene.writer.peek().raw + b"\n", "quarantined", "not_base64")


@forgery
def padded_base64(scene: Scene) -> Forged:
    return Forged(scene.writer.peek().raw + b"==", "quarantined", "not_base64")


@forgery
def unused_bits_of_the_signature(scene: Scene) -> Forged:
    raw = scene.writer.peek().raw
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = (
        letters[letters.index(raw[-1]) | 1] if letters.index(raw[-1]) & 1 == 0 else letters[letters.index(raw[-1]) ^ 1]
    )
    return Forged(raw[:-1] + bytes([last]), "quarantined", "not_base64")


# What the header says


@forgery
def header_of_no_json(scene: Scene) -> Forged:
    return Forged(_raw_header(scene, b"{"), "quarantined", "header_not_json")


@forgery
def header_that_is_a_list(scene: Scene) -> Forged:
    return Forged(_raw_header(scene, b"[1]"), "quarantined", "header_not_json")


@forgery
def header_of_deep_json(scene: Scene) -> Forged:
    return Forged(_raw_header(scene, b'{"a":' + b"[" * 700 + b"]" * 700 + b"}"), "quarantined", "header_not_json")


@forgery
def header_with_parts_of_its_own(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), jwk={"kty": "OKP"}), "quarantined", "header_not_flat")


@forgery
def header_of_three_thousand_bytes(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), more="x" * 3000), "quarantined", "header_too_large")


@forgery
def header_naming_a_key_address(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), jku="https://evil.test/keys"), "quarantined", "header_refused")


@forgery
def header_with_critical_extensions(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), crit="b64"), "quarantined", "header_refused")


@forgery
def algorithm_none(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), alg="none"), "quarantined", "wrong_algorithm")


@forgery
def algorithm_hmac_with_the_public_key(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), alg="HS256"), "quarantined", "wrong_algorithm")


@forgery
def token_of_another_kind(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), typ="aifn-request+jws"), "quarantined", "wrong_algorithm")


@forgery
def sequence_zero(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), q=0), "quarantined", "header_incomplete")


@forgery
def sequence_as_text(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), q="3"), "quarantined", "header_incomplete")


@forgery
def sequence_beyond_all_numbers(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), q=2**63), "quarantined", "header_incomplete")


@forgery
def sequence_true(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), q=True), "quarantined", "header_incomplete")


@forgery
def header_without_key_id(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), kid=...), "quarantined", "header_incomplete")


@forgery
def hash_of_the_wrong_length(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), p="AAAA"), "quarantined", "header_incomplete")


@forgery
def header_changed_after_signing(scene: Scene) -> Forged:
    return Forged(_header(scene.writer.peek(), dv=0), "quarantined", "wrong_signature")


# Who speaks


@forgery
def wrong_topic_owner(scene: Scene) -> Forged:
    return Forged(scene.writer.peek().raw, "quarantined", "wrong_topic", {"origin": "ju"})


@forgery
def wrong_topic_stream(scene: Scene) -> Forged:
    return Forged(scene.writer.peek().raw, "quarantined", "wrong_topic", {"stream": "catalogue"})


@forgery
def record_key_of_another_thing(scene: Scene) -> Forged:
    return Forged(scene.writer.peek().raw, "quarantined", "wrong_key", {"key": b"lumi-aif/lumi-c"})


@forgery
def our_own_facts_echoed(scene: Scene) -> Forged:
    ours = scene.federation.writer("bsc-aif").peek()
    return Forged(ours.raw, "quarantined", "own_echo", {"origin": "bsc-aif"})


@forgery
def key_nobody_has(scene: Scene) -> Forged:
    scene.writer.keys = OnlineKeys.generate()
    return Forged(scene.writer.peek().raw, "quarantined", "unknown_key")


@forgery
def another_members_key(scene: Scene) -> Forged:
    scene.writer.keys = scene.federation.keys("ju")
    return Forged(scene.writer.peek().raw, "quarantined", "foreign_key_id")


@forgery
def another_members_key_under_the_owners_id(scene: Scene) -> Forged:
    kid = scene.writer.keys.signing.kid
    scene.writer.keys = scene.federation.keys("ju")
    return Forged(scene.writer.peek(kid=kid).raw, "quarantined", "wrong_signature")


@forgery
def signature_of_another_envelope(scene: Scene) -> Forged:
    other = scene.first.raw.rpartition(b".")[2]
    return Forged(scene.writer.peek().raw.rpartition(b".")[0] + b"." + other, "quarantined", "wrong_signature")


@forgery
def signature_of_zeros(scene: Scene) -> Forged:
    raw = scene.writer.peek().raw.rpartition(b".")[0] + b"." + to_base64(bytes(64)).encode()
    return Forged(raw, "quarantined", "wrong_signature")


@forgery
def payload_of_another_envelope(scene: Scene) -> Forged:
    head, _, signature = scene.writer.peek().raw.split(b".")
    return Forged(b".".join((head, scene.first.raw.split(b".")[1], signature)), "quarantined", "wrong_signature")


@forgery
def stream_an_antenna_may_not_write(scene: Scene) -> Forged:
    raw = scene.federation.writer("nl-antenna").peek().raw
    return Forged(raw, "quarantined", "stream_not_allowed", {"origin": "nl-antenna"})


@forgery
def stream_nobody_knows(scene: Scene) -> Forged:
    raw = scene.federation.writer("lumi-aif", "gossip").peek().raw
    return Forged(raw, "quarantined", "stream_not_allowed", {"stream": "gossip"})


@forgery
def expired_directory(scene: Scene) -> Forged:
    later = datetime.now(UTC) + timedelta(days=8)
    return Forged(scene.writer.peek().raw, "parked", "directory_expired", {"now": later})


@forgery
def signed_under_a_newer_directory(scene: Scene) -> Forged:
    scene.writer.keys = OnlineKeys.generate()
    return Forged(scene.writer.peek(directory_version=9).raw, "parked", "directory_behind")


# When it is said


@forgery
def replayed(scene: Scene) -> Forged:
    return Forged(scene.first.raw, "duplicate", "known")


@forgery
def ahead_of_its_turn(scene: Scene) -> Forged:
    scene.writer.next()
    return Forged(scene.writer.peek().raw, "gap", "missing_before")


@forgery
def another_thing_at_an_old_place(scene: Scene) -> Forged:
    raw = scene.writer.peek(capacity(idle=1), seq=2, prev=scene.first.hash).raw
    return Forged(raw, "equivocation", "two_at_one_place")


@forgery
def next_after_another_past(scene: Scene) -> Forged:
    return Forged(scene.writer.peek(prev=bytes(31) + b"x").raw, "equivocation", "another_before")


@forgery
def new_epoch_that_does_not_begin_at_one(scene: Scene) -> Forged:
    return Forged(scene.writer.peek(epoch=2, seq=5).raw, "gap", "missing_before")


@forgery
def new_epoch_that_goes_on_from_the_old(scene: Scene) -> Forged:
    return Forged(scene.writer.peek(epoch=2, seq=1).raw, "equivocation", "another_before")


# What it says, signed by its owner all the same


@forgery
def payload_of_no_json(scene: Scene) -> Forged:
    return _signed(scene, "not_json", b"{")


@forgery
def payload_of_deep_json(scene: Scene) -> Forged:
    return _signed(scene, "not_json", b"[" * 5000 + b"]" * 5000)


@forgery
def payload_that_is_a_gzip_bomb(scene: Scene) -> Forged:
    return _signed(scene, "not_json", gzip.compress(b"0" * 1_000_000))


@forgery
def payload_of_not_a_number(scene: Scene) -> Forged:
    return _signed(scene, "not_json", _payload(scene).replace(b'"nodes_idle": 10', b'"nodes_idle": NaN'))


@forgery
def payload_that_is_no_cloudevent(scene: Scene) -> Forged:
    return _signed(scene, "not_cloudevents", b'{"a": 1}')


@forgery
def cloudevents_of_another_version(scene: Scene) -> Forged:
    return _signed(scene, "not_cloudevents", _payload(scene, specversion="2.0"))


@forgery
def event_without_id(scene: Scene) -> Forged:
    return _signed(scene, "attribute_missing", _payload(scene, id=...))


@forgery
def event_with_control_characters(scene: Scene) -> Forged:
    return _signed(scene, "attribute_missing", _payload(scene, id="a\x00b"))


@forgery
def source_of_another_member(scene: Scene) -> Forged:
    return _signed(scene, "wrong_source", _payload(scene, source="urn:aifn:bsc-aif:siteagent"))


@forgery
def sequence_in_the_event_is_another(scene: Scene) -> Forged:
    return _signed(scene, "wrong_sequence", _payload(scene, sequence="0000000000000004"))


@forgery
def time_as_a_number(scene: Scene) -> Forged:
    return _signed(scene, "wrong_time", _payload(scene, time=1_763_716_800))


@forgery
def type_that_is_not_ours(scene: Scene) -> Forged:
    return _signed(scene, "wrong_type", _payload(scene, type="com.example.spam"))


@forgery
def unknown_major_version(scene: Scene) -> Forged:
    payload = _payload(scene, type="eu.aifn.capacity-reported.v2")
    return _signed(scene, "unknown_fact", payload, verdict="parked")


@forgery
def fact_of_another_stream(scene: Scene) -> Forged:
    payload = _payload(scene, type="eu.aifn.dataset-described.v1")
    return _signed(scene, "unknown_fact", payload, verdict="parked")


@forgery
def key_of_another_member(scene: Scene) -> Forged:
    key = "bsc-aif/mn5-acc"
    return _signed(scene, "foreign_key", write_payload(capacity(), key=key, seq=3), key=key)


@forgery
def key_of_nothing(scene: Scene) -> Forged:
    return _signed(scene, "foreign_key", write_payload(capacity(), key="lumi-aif/", seq=3), key="lumi-aif/")


@forgery
def key_that_is_not_the_signed_one(scene: Scene) -> Forged:
    return _signed(scene, "wrong_key", write_payload(capacity(), key="lumi-aif/lumi-c", seq=3))


@forgery
def data_of_negative_amounts(scene: Scene) -> Forged:
    said = json.loads(_payload(scene))
    said["data"]["nodes_idle"] = -1
    return _signed(scene, "invalid_data", json.dumps(said).encode())


@forgery
def data_that_is_a_list(scene: Scene) -> Forged:
    return _signed(scene, "invalid_data", _payload(scene, data=[1]))


@forgery
def data_that_is_missing(scene: Scene) -> Forged:
    return _signed(scene, "invalid_data", _payload(scene, data=...))


@forgery
def content_of_another_type(scene: Scene) -> Forged:
    return _signed(scene, "wrong_content_type", _payload(scene, datacontenttype="text/html"))


@forgery
def machine_of_another_factory(scene: Scene) -> Forged:
    event = MachineDescribed.example(factory_ids=["bsc-aif"], source="urn:aifn:lumi-aif:registry")
    return Forged(scene.writer.peek(event).raw, "quarantined", "foreign_fact")


@forgery
def retirement_only_in_the_header(scene: Scene) -> Forged:
    return Forged(scene.writer.peek(retired=True).raw, "quarantined", "wrong_retirement")


@forgery
def dataset_of_another_factory(scene: Scene) -> Forged:
    event = DatasetDescribed.example(factory_id="bsc-aif", source="urn:aifn:lumi-aif:datalab")
    raw = scene.federation.writer("lumi-aif", "catalogue").peek(event).raw
    return Forged(raw, "quarantined", "foreign_fact", {"stream": "catalogue"})


@forgery
def description_of_another_member(scene: Scene) -> Forged:
    event = FactoryDescribed.example(factory_id="bsc-aif", source="urn:aifn:nl-antenna:registry")
    raw = scene.federation.writer("nl-antenna", "knowledge").peek(event).raw
    return Forged(raw, "quarantined", "foreign_fact", {"origin": "nl-antenna", "stream": "knowledge"})


@forgery
def machine_that_no_factory_operates(scene: Scene) -> Forged:
    event = MachineDescribed.example(factory_ids=[], source="urn:aifn:lumi-aif:registry")
    return Forged(scene.writer.peek(event).raw, "quarantined", "foreign_fact")


@forgery
def headroom_of_another_factory(scene: Scene) -> Forged:
    event = ShareHeadroomChanged.example(factory_id="bsc-aif", source="urn:aifn:lumi-aif:accounting")
    raw = scene.federation.writer("lumi-aif", "access").peek(event).raw
    return Forged(raw, "quarantined", "foreign_fact", {"stream": "access"})


@forgery
def call_that_is_the_ju_s_to_decide(scene: Scene) -> Forged:
    event = CallPublished.example(deciding_authority="ju", source="urn:aifn:lumi-aif:scheduler")
    raw = scene.federation.writer("lumi-aif", "access").peek(event).raw
    return Forged(raw, "quarantined", "foreign_fact", {"stream": "access"})


def _award(scene: Scene, origin: str, **said: Any) -> bytes:
    payload = _payload(
        scene,
        type="eu.aifn.award-granted.v1",
        source=f"urn:aifn:{origin}:scheduler",
        sequence=f"{1:016d}",
        partitionkey=f"{origin}/a",
        **said,
    )
    return scene.federation.writer(origin, "award").peek(key=f"{origin}/a", payload=payload).raw


def _sealed(text: bytes, key: str) -> dict[str, str]:
    """What an event says of data that is sealed to bsc-aif."""
    return {"data": seal(text, key), "datacontenttype": "application/jose", "recipient": "bsc-aif"}


def _award_by(scene: Scene, origin: str, authority: str) -> bytes:
    event = AwardGranted.example(factory_id="bsc-aif", deciding_authority=authority)
    key = scene.federation.keys("bsc-aif").encrypt_public
    return _award(scene, origin, **_sealed(event.model_dump_json().encode(), key))


@forgery
def award_of_a_factory_in_the_name_of_the_ju(scene: Scene) -> Forged:
    raw = _award_by(scene, "lumi-aif", "ju")
    return Forged(raw, "quarantined", "stream_not_allowed", {"stream": "award"})


@forgery
def award_of_the_ju_in_a_mode_of_the_factory_s_own(scene: Scene) -> Forged:
    raw = _award_by(scene, "ju", "hosting_factory")
    return Forged(raw, "quarantined", "foreign_fact", {"origin": "ju", "stream": "award"})


@forgery
def award_that_is_not_sealed(scene: Scene) -> Forged:
    return Forged(_award(scene, "ju"), "quarantined", "wrong_content_type", {"origin": "ju", "stream": "award"})


@forgery
def award_sealed_to_us_with_another_key(scene: Scene) -> Forged:
    raw = _award(scene, "ju", **_sealed(b"{}", OnlineKeys.generate().encrypt_public))
    return Forged(raw, "quarantined", "cannot_open", {"origin": "ju", "stream": "award"})
