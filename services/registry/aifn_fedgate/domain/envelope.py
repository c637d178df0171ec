"""The envelope: a JWS in compact form whose bytes are never written twice in different ways.

Source: RFC 7515 (JWS, compact serialization), RFC 8037 and RFC 9864 (`Ed25519` as `alg`). Base64url is read strictly:
what would be written differently is refused, so that no two texts mean one envelope.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

MOST_BYTES = 262_144
MOST_HEADER_BYTES = 2_048
ALGORITHM = "Ed25519"
TYPE = "aifn-event+jws"
ZERO = bytes(32)
_LARGEST = 2**53 - 1
_REFUSED = frozenset(("crit", "b64", "zip", "jku", "jwk", "x5u", "x5c"))
Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes, bytes], bool]
"""Whether (public key, signature, signed bytes) belong together."""


class Malformed(ValueError):
    """Bytes that are no envelope. `code` says why, for machines."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Header:
    """What an envelope says of itself: see docs/federation.md. Hashes are 32 bytes."""

    kid: str
    origin: str
    stream: str
    epoch: int
    seq: int
    prev: bytes
    key_hash: bytes
    directory_version: int
    retired: bool = False

    @property
    def at(self) -> tuple[int, int]:
        """Its place in its stream: epoch and sequence number."""
        return self.epoch, self.seq


@dataclass(frozen=True, slots=True)
class Envelope:
    """An envelope as it came, with its header read and nothing believed."""

    raw: bytes
    hash: bytes
    header: Header
    signed: bytes
    signature: bytes

    @property
    def payload(self) -> bytes:
        """The exact bytes that were signed. Raises Malformed."""
        return from_base64(self.signed[self.signed.index(b".") + 1 :])


def to_base64(raw: bytes) -> str:
    """Base64url without padding (RFC 7515, section 2).

    >>> to_base64(bytes([251, 255]))
    '-_8'
    """
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_base64(text: bytes) -> bytes:
    """The bytes behind base64url. Raises Malformed for any text that `to_base64` would not write.

    >>> from_base64(b"-_8") == bytes([251, 255])
    True
    """
    try:
        raw = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("not_base64", "a part is not base64url") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != text:
        raise Malformed("not_base64", "a part is base64url, but not as it is written here")
    return raw


def hash_of(raw: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(raw).digest()


def write(header: Header, payload: bytes, sign: Sign) -> Envelope:
    """Sign a payload. Raises Malformed when nobody would take the result."""
    signed = f"{to_base64(_header_bytes(header))}.{to_base64(payload)}".encode()
    signature = sign(signed)
    raw = signed + b"." + to_base64(signature).encode()
    if len(raw) > MOST_BYTES:
        raise Malformed("too_large", f"an envelope of {len(raw)} bytes is more than {MOST_BYTES}")
    return Envelope(raw, hash_of(raw), header, signed, signature)


def _header_bytes(header: Header) -> bytes:
    said: dict[str, Any] = {
        "alg": ALGORITHM,
        "kid": header.kid,
        "typ": TYPE,
        "o": header.origin,
        "s": header.stream,
        "e": header.epoch,
        "q": header.seq,
        "p": to_base64(header.prev),
        "k": to_base64(header.key_hash),
        "dv": header.directory_version,
    }
    if header.retired:
        said["x"] = True
    return json.dumps(said, separators=(",", ":")).encode()


def read(raw: bytes) -> Envelope:
    """Take an envelope apart and read its header; the payload stays closed. Raises Malformed, and nothing else."""
    if len(raw) > MOST_BYTES:
        raise Malformed("too_large", f"{len(raw)} bytes are more than {MOST_BYTES}")
    parts = raw.split(b".")
    if len(parts) != 3:
        raise Malformed("not_compact", f"{len(parts)} parts, not 3")
    if len(parts[0]) > MOST_HEADER_BYTES:
        raise Malformed("header_too_large", f"a header of {len(parts[0])} bytes is more than {MOST_HEADER_BYTES}")
    signature = from_base64(parts[2])
    if len(signature) != 64:
        raise Malformed("wrong_signature_length", f"a signature of {len(signature)} bytes, not 64")
    header = _read_header(from_base64(parts[0]))
    return Envelope(raw, hash_of(raw), header, raw[: len(raw) - len(parts[2]) - 1], signature)


def _read_header(raw: bytes) -> Header:
    try:
        said = from_json(raw, allow_inf_nan=False)
    except ValueError:
        raise Malformed("header_not_json", "the header is not JSON") from None
    if not isinstance(said, dict):
        raise Malformed("header_not_json", "the header is not a JSON object")
    if any(isinstance(value, dict | list) for value in said.values()):
        raise Malformed("header_not_flat", "the header has parts of its own")
    if _REFUSED & said.keys():
        raise Malformed("header_refused", f"the header has {min(_REFUSED & said.keys())}")
    if said.get("alg") != ALGORITHM or said.get("typ") != TYPE:
        raise Malformed("wrong_algorithm", f"only {ALGORITHM} and {TYPE} are read")
    return Header(
        kid=_text(said, "kid"),
        origin=_text(said, "o"),
        stream=_text(said, "s"),
        epoch=_number(said, "e", least=1),
        seq=_number(said, "q", least=1),
        prev=_hash(said, "p"),
        key_hash=_hash(said, "k"),
        directory_version=_number(said, "dv", least=0),
        retired=_flag(said, "x"),
    )


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= 128 or not value.isascii() or not value.isprintable():
        raise Malformed("header_incomplete", f"{name} is not a short printable text")
    return value


def _number(said: dict[str, Any], name: str, *, least: int) -> int:
    value = said.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= _LARGEST:
        raise Malformed("header_incomplete", f"{name} is not a whole number from {least}")
    return value


def _hash(said: dict[str, Any], name: str) -> bytes:
    raw = from_base64(_text(said, name).encode())
    if len(raw) != 32:
        raise Malformed("header_incomplete", f"{name} is not the hash of anything")
    return raw


def _flag(said: dict[str, Any], name: str) -> bool:
    value = said.get(name, False)
    if not isinstance(value, bool):
        raise Malformed("header_incomplete", f"{name} is neither true nor false")
    return value
