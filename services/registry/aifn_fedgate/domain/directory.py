"""Who belongs to the network and with which keys: a directory that expires, signed by a threshold of offline keys.

Source: the roles, thresholds and root rotation are those of The Update Framework (theupdateframework.io); the documents
are JWS in general JSON form (RFC 7515, section 7.2.1).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from aifn_events.federation import STREAMS, MemberId, MemberKind
from aifn_events.vocabulary import Moment
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from aifn_fedgate.domain.envelope import ALGORITHM, Malformed, Sign, Verify, from_base64, to_base64

MOST_BYTES = 200_000
DAYS = 7
_TYPES = {"root": "aifn-root+jws", "directory": "aifn-directory+jws", "statement": "aifn-statement+jws"}
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
Position = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]


class Distrusted(ValueError):
    """A root, directory or statement that is not believed. `code` says why, for machines."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


P = TypeVar("P", bound=_Part)


class OnlineKey(_Part):
    """A key that signs events. `closed` names, by stream, the last place it may stand for; None is in use."""

    kid: Key
    sign: Key
    encrypt: Key
    statement: str = Field(max_length=2000)
    closed: dict[str, tuple[Position, Position]] | None = Field(default=None, max_length=32)

    def covers(self, stream: str, place: tuple[int, int]) -> bool:
        """Whether the key may stand for this place of a stream."""
        return self.closed is None or place <= self.closed.get(stream, (0, 0))


class Member(_Part):
    """A member of the network."""

    kind: MemberKind
    identity: Key = Field(description="its offline key, which signs its online ones")
    endpoints: tuple[str, ...] = Field(max_length=8)
    streams: tuple[str, ...] = Field(max_length=32, description="which it may write, if its kind may")
    events_per_second: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 50
    left: bool = False
    keys: tuple[OnlineKey, ...] = Field(max_length=64)

    def may_write(self, stream: str) -> bool:
        """Whether kind and entry allow a stream. Heads and the directory are everybody's."""
        known = STREAMS.get(stream)
        if known is None or self.kind not in known.writers:
            return False
        return stream in self.streams or not known.inward

    def current_key(self) -> OnlineKey | None:
        """The newest key in use."""
        return next((key for key in reversed(self.keys) if key.closed is None), None)


class Directory(_Part):
    """The members at one version."""

    type: Literal["directory"]
    version: Position
    root_version: Position
    issued_at: Moment
    expires_at: Moment
    members: dict[MemberId, Member] = Field(max_length=1000)


class Root(_Part):
    """The offline keys, of which `threshold` must sign."""

    type: Literal["root"]
    version: Position
    threshold: Annotated[int, Field(strict=True, ge=1, le=16)]
    keys: dict[Key, Key] = Field(min_length=1, max_length=16, description="public key by key id")


@dataclass(frozen=True)
class Trust:
    """What is believed now: a root, and a directory under it with its keys at hand."""

    root: Root
    directory: Directory
    by_kid: Mapping[str, tuple[str, Member, OnlineKey, bytes]] = field(repr=False)

    @classmethod
    def of(cls, root: Root, directory: Directory) -> "Trust":
        """Index the keys."""
        found = {
            key.kid: (name, member, key, from_base64(key.sign.encode()))
            for name, member in directory.members.items()
            for key in member.keys
        }
        return cls(root, directory, found)

    def expired(self, now: datetime) -> bool:
        """Whether the directory is too old to believe anything new by it."""
        return now >= self.directory.expires_at


def key_id(public: str) -> str:
    """The thumbprint of an Ed25519 key (RFC 7638, RFC 8037).

    >>> key_id("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
    'kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k'
    """
    text = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": public}, separators=(",", ":"))
    return to_base64(hashlib.sha256(text.encode()).digest())


def write_document(kind: str, content: Mapping[str, Any], signers: Mapping[str, Sign]) -> str:
    """A document in general JSON form, signed by everyone in `signers` (key id to signing function)."""
    payload = to_base64(json.dumps(content, separators=(",", ":")).encode())
    signatures = []
    for kid, sign in signers.items():
        protected = _protected(kind, kid)
        signature = to_base64(sign(f"{protected}.{payload}".encode()))
        signatures.append({"protected": protected, "signature": signature})
    return json.dumps({"payload": payload, "signatures": signatures}, indent=1)


def add_signature(text: str, kind: str, kid: str, sign: Sign) -> str:
    """The same document with one more signature, made elsewhere and at another time. Raises Distrusted."""
    document = _document(text)
    protected = _protected(kind, kid)
    signature = to_base64(sign(f"{protected}.{document['payload']}".encode()))
    others = [one for one in document["signatures"] if one.get("protected") != protected]
    document["signatures"] = [*others, {"protected": protected, "signature": signature}]
    return json.dumps(document, indent=1)


def _protected(kind: str, kid: str) -> str:
    said = {"alg": ALGORITHM, "kid": kid, "typ": _TYPES[kind]}
    return to_base64(json.dumps(said, separators=(",", ":")).encode())


def content_of(text: str) -> dict[str, Any]:
    """What a document says, believed or not. Raises Distrusted."""
    try:
        content = from_json(from_base64(_document(text)["payload"].encode()), allow_inf_nan=False)
    except ValueError:
        raise Distrusted("not_a_document", "the payload is not JSON in base64url") from None
    if not isinstance(content, dict):
        raise Distrusted("not_a_document", "the payload is not a JSON object")
    return content


def _document(text: str) -> dict[str, Any]:
    if len(text) > MOST_BYTES * 2:
        raise Distrusted("too_large", f"a document of {len(text)} characters is not read")
    try:
        found = from_json(text, allow_inf_nan=False)
    except ValueError:
        raise Distrusted("not_a_document", "this is not JSON") from None
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("payload"), str)
        or not isinstance(found.get("signatures"), list)
        or len(found["signatures"]) > 32
        or not all(isinstance(one, dict) for one in found["signatures"])
    ):
        raise Distrusted("not_a_document", "payload and signatures are missing")
    return found


def signed_by(text: str, kind: str, keys: Mapping[str, str], verify: Verify) -> frozenset[str]:
    """Which of these keys (public by id) have signed a document. Raises Distrusted if it is none."""
    document = _document(text)
    found = set()
    for one in document["signatures"]:
        for kid, public in keys.items():
            if one.get("protected") != _protected(kind, kid):
                continue
            try:
                signature, key = from_base64(str(one.get("signature")).encode()), from_base64(public.encode())
            except (Malformed, UnicodeEncodeError):
                continue
            if verify(key, signature, f"{one['protected']}.{document['payload']}".encode()):
                found.add(kid)
    return frozenset(found)


def first_root(text: str, verify: Verify) -> Root:
    """The root that a member was given by hand; it must at least be signed by itself. Raises Distrusted."""
    root = _parse(Root, text)
    _enough(text, "root", root, verify)
    return root


def next_root(known: Root, text: str, verify: Verify) -> Root:
    """A newer root, signed by enough of the old keys and enough of its own. Raises Distrusted."""
    root = _parse(Root, text)
    if root.version != known.version + 1:
        raise Distrusted("root_out_of_order", f"root {root.version} does not follow root {known.version}")
    _enough(text, "root", known, verify)
    _enough(text, "root", root, verify)
    return root


def read_directory(root: Root, text: str, verify: Verify) -> Directory:
    """A directory under a root: enough signatures, every online key stated by its member. Raises Distrusted."""
    _enough(text, "directory", root, verify)
    directory = _parse(Directory, text)
    if directory.root_version != root.version:
        raise Distrusted("wrong_root", f"it is of root {directory.root_version}, not {root.version}")
    kids: set[str] = set()
    for name, member in directory.members.items():
        for key in member.keys:
            if key.kid in kids or key.kid != key_id(key.sign):
                raise Distrusted("wrong_key_id", f"a key of {name} has a wrong or repeated id")
            kids.add(key.kid)
            check_statement(name, member.identity, key, verify)
    return directory


def newer(before: Trust | None, after: Directory) -> bool:
    """Whether a directory replaces the one in force. Raises Distrusted for one that takes back what was said."""
    if before is None or after.version > before.directory.version:
        return True
    if after.version == before.directory.version and after != before.directory:
        raise Distrusted("two_of_one_version", f"there are two directories of version {after.version}")
    return False


def write_statement(member: str, identity: str, sign: Sign, *, sign_key: str, encrypt_key: str) -> OnlineKey:
    """A member's offline identity key states one of its online keys."""
    kid = key_id(sign_key)
    content = {"type": "statement", "member": member, "kid": kid, "sign": sign_key, "encrypt": encrypt_key}
    text = write_document("statement", content, {key_id(identity): sign})
    return OnlineKey(kid=kid, sign=sign_key, encrypt=encrypt_key, statement=text)


def check_statement(member: str, identity: str, key: OnlineKey, verify: Verify) -> None:
    """Raise Distrusted unless the member's identity key has stated this online key."""
    said = content_of(key.statement)
    meant = {"type": "statement", "member": member, "kid": key.kid, "sign": key.sign, "encrypt": key.encrypt}
    if said != meant or not signed_by(key.statement, "statement", {key_id(identity): identity}, verify):
        raise Distrusted("not_stated", f"a key of {member} is not stated by its identity key")


def _enough(text: str, kind: str, root: Root, verify: Verify) -> None:
    if any(kid != key_id(public) for kid, public in root.keys.items()) or root.threshold > len(root.keys):
        raise Distrusted("wrong_root", "the root's keys do not fit their ids or its threshold")
    signers = signed_by(text, kind, root.keys, verify)
    if len(signers) < root.threshold:
        raise Distrusted("too_few_signatures", f"{len(signers)} of {root.threshold} signatures of root {root.version}")


def _parse(kind: type[P], text: str) -> P:
    try:
        return kind.model_validate(content_of(text))
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part)[:60] for part in first["loc"])
        raise Distrusted("wrong_content", f"{where}: {first['msg']}"[:300]) from None
