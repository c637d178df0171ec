"""Keys in files, signatures, and bodies that only one member can open.

Signatures are made with `cryptography` directly, for verification is most of the gate's work; JWE is joserfc's.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from aifn_fedgate.domain.directory import key_id
from aifn_fedgate.domain.envelope import Malformed, from_base64, to_base64

T = TypeVar("T")
_SEAL = {"alg": "ECDH-ES", "enc": "A256GCM", "typ": "aifn-sealed+jwe"}


class WrongKeyFile(Exception):
    """A file that holds no keys of the kind asked for; the message names it and says what to do."""


@dataclass(frozen=True)
class SigningKey:
    """An Ed25519 key that can sign."""

    private: Ed25519PrivateKey

    @classmethod
    def generate(cls) -> "SigningKey":
        """A new one."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def of_seed(cls, seed: bytes) -> "SigningKey":
        """The key of a 32-byte seed: for simulations that must be the same each time."""
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def public(self) -> str:
        """The public half in base64url."""
        return to_base64(self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @property
    def kid(self) -> str:
        """Its thumbprint."""
        return key_id(self.public)

    def sign(self, raw: bytes) -> bytes:
        """64 bytes of signature."""
        return self.private.sign(raw)

    def as_jwk(self) -> dict[str, str]:
        """The key as JWK (RFC 8037), private part included."""
        raw = self.private.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        return {"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": self.public, "d": to_base64(raw)}

    @classmethod
    def from_jwk(cls, said: dict[str, str]) -> "SigningKey":
        """The key of a JWK. Raises ValueError."""
        if said.get("crv") != "Ed25519" or not isinstance(said.get("d"), str):
            raise ValueError("this is no private Ed25519 key")
        key = cls.of_seed(from_base64(said["d"].encode()))
        if key.public != said.get("x"):
            raise ValueError("the halves of this key do not belong together")
        return key


@dataclass(frozen=True)
class OnlineKeys:
    """What a member's gate has at hand: one key to sign with, one to open what was sealed to it, and older ones."""

    signing: SigningKey
    opening: tuple[OKPKey, ...]

    @classmethod
    def generate(cls) -> "OnlineKeys":
        """New keys."""
        return cls(SigningKey.generate(), (OKPKey.generate_key("X25519"),))

    @property
    def encrypt_public(self) -> str:
        """What others seal to."""
        return str(self.opening[0].as_dict(private=False)["x"])

    def renewed(self) -> "OnlineKeys":
        """New keys that can still open what was sealed to the old ones."""
        fresh = OnlineKeys.generate()
        return OnlineKeys(fresh.signing, (*fresh.opening, *self.opening)[:8])

    def open_sealed(self, text: str) -> bytes:
        """What was sealed to this member. Raises ValueError."""
        for key in self.opening:
            try:
                found = jwe.decrypt_compact(text, key, algorithms=["ECDH-ES", "A256GCM"])
            except (JoseError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if found.plaintext is not None:
                return found.plaintext
        raise ValueError("none of our keys opens it")

    def write(self, path: Path) -> None:
        """Keep the keys in a file that only its owner reads."""
        write_secret(
            path,
            {"sign": self.signing.as_jwk(), "open": [dict(key.as_dict(private=True)) for key in self.opening]},
        )


def seal(raw: bytes, recipient: str) -> str:
    """Encrypt to a member's X25519 key (base64url): JWE compact, ECDH-ES with A256GCM. Raises ValueError."""
    key = OKPKey.import_key({"kty": "OKP", "crv": "X25519", "x": recipient})
    return jwe.encrypt_compact(_SEAL, raw, key, algorithms=["ECDH-ES", "A256GCM"])


def verify(public: bytes, signature: bytes, signed: bytes) -> bool:
    """Whether an Ed25519 signature holds (RFC 8032)."""
    try:
        _public(public).verify(signature, signed)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=1024)
def _public(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def read_online(path: Path) -> OnlineKeys:
    """The online keys of a file. Raises WrongKeyFile."""

    def made(said: dict[str, object]) -> OnlineKeys:
        sign, opening = said["sign"], said["open"]
        if not isinstance(sign, dict) or not isinstance(opening, list) or not opening:
            raise ValueError("sign and open are missing")
        return OnlineKeys(SigningKey.from_jwk(sign), tuple(OKPKey.import_key(key) for key in opening))

    return _read(path, "online keys", made)


def read_signing(path: Path) -> SigningKey:
    """An offline key of a file. Raises WrongKeyFile."""

    def made(said: dict[str, object]) -> SigningKey:
        return SigningKey.from_jwk({name: str(value) for name, value in said.items()})

    return _read(path, "a key", made)


def _read(path: Path, what: str, made: Callable[[dict[str, object]], T]) -> T:
    try:
        said = json.loads(path.read_bytes())
        if not isinstance(said, dict):
            raise ValueError("not a JSON object")
        return made(said)
    except OSError as fault:
        raise WrongKeyFile(f"{path}: {fault.strerror}; it should hold {what}") from None
    except (ValueError, KeyError, TypeError, JoseError, Malformed) as fault:
        raise WrongKeyFile(f"{path} does not hold {what}: {fault}") from None


def write_secret(path: Path, content: object) -> None:
    """Write JSON that nobody but the owner of the file may read; an existing file is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as out:
        json.dump(content, out, indent=1)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    os.replace(beside, path)
