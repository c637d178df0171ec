"""Bearer tokens: who signed them, for whom, until when. Source: RFC 9068 and RFC 8725."""

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Any

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from aifn_common.errors import Unauthenticated

ALGORITHMS = ["EdDSA", "Ed25519", "ES256", "RS256", "PS256"]
LEEWAY_SECONDS = 60
LONGEST_LIFE_SECONDS = 3600
FRESH_SECONDS = 300
LAST_GOOD_SECONDS = 86_400
COOL_DOWN_SECONDS = 5
MAX_TOKEN_BYTES = 16_384
REMEMBERED_SECONDS = 30
REMEMBERED_TOKENS = 4096


class IssuerAway(Unauthenticated):
    """The token may be good; who could tell does not answer."""

    code = "issuer_away"
    status = 503


@dataclass(frozen=True)
class Identity:
    """A recognised person or service: the subject and the roles its token speaks of."""

    subject: str
    entitlements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A token that was good: checking its signature is a tenth of a plain read. `until` on the monotonic clock."""

    identity: Identity
    expires: float
    until: float


class TokenValidator:
    """Checks tokens of one issuer for one audience. Keys are fetched when needed, and kept a day if it is away.

    A token that was good is believed for half a minute without another look, never beyond its own end.
    """

    def __init__(self, issuer: str, audience: str, *, http: httpx.AsyncClient) -> None:
        self._issuer = issuer
        self._audience = audience
        self._http = http
        self._keys: KeySet | None = None
        self._fetched = -math.inf
        self._tried = -math.inf
        self._lock = asyncio.Lock()
        self._remembered: dict[str, _Remembered] = {}

    async def identify(self, token: str) -> Identity:
        """The identity behind a token. Raises Unauthenticated; the message tells an honest caller what to do."""
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated("the token is too long")
        known = self._remembered.get(token)
        if known is not None and time.monotonic() < known.until and time.time() <= known.expires:
            return known.identity
        identity, expires = await self._recognise(token)
        if len(self._remembered) >= REMEMBERED_TOKENS:
            del self._remembered[next(iter(self._remembered))]
        self._remembered.pop(token, None)  # so that it stands last again
        self._remembered[token] = _Remembered(identity, expires, time.monotonic() + REMEMBERED_SECONDS)
        return identity

    async def _recognise(self, token: str) -> tuple[Identity, float]:
        """The identity behind a token, and until when that may be believed (seconds since the epoch)."""
        keys = await self._known_keys()
        try:
            decoded = self._decode(token, keys)
        except (JoseError, ValueError, TypeError):
            keys = await self._known_keys(renew=True)
            try:
                decoded = self._decode(token, keys)
            except (JoseError, ValueError, TypeError) as wrong:
                raise Unauthenticated(f"the token is not one of {self._issuer}: {type(wrong).__name__}") from None
        self._check(decoded.header, decoded.claims)
        entitlements = decoded.claims.get("entitlements", [])
        words = tuple(word for word in entitlements if isinstance(word, str)) if isinstance(entitlements, list) else ()
        return Identity(str(decoded.claims["sub"]), words), float(decoded.claims["exp"]) + LEEWAY_SECONDS

    @staticmethod
    def _decode(token: str, keys: KeySet) -> jwt.Token:
        return jwt.decode(token, keys, algorithms=ALGORITHMS, registry=JWSRegistry(algorithms=ALGORITHMS))

    def _check(self, header: dict[str, Any], claims: dict[str, Any]) -> None:
        if str(header.get("typ", "")).lower().removeprefix("application/") != "at+jwt":
            raise Unauthenticated("this is not an access token (typ is not at+jwt)")
        if claims.get("iss") != self._issuer:
            raise Unauthenticated(f"the token was not issued by {self._issuer}")
        audience = claims.get("aud")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise Unauthenticated(f"the token is not meant for {self._audience}")
        if not isinstance(claims.get("sub"), str) or not 0 < len(claims["sub"]) <= 255:
            raise Unauthenticated("the token names nobody (sub)")
        now = time.time()
        expires, issued, not_before = (_seconds(claims.get(name)) for name in ("exp", "iat", "nbf"))
        if expires is None or issued is None:
            raise Unauthenticated("the token does not say from when to when it is good (iat, exp)")
        if now > expires + LEEWAY_SECONDS:
            raise Unauthenticated("the token has expired: sign in again")
        if max(issued, not_before or 0) > now + LEEWAY_SECONDS:
            raise Unauthenticated("the token is not good yet")
        if expires - issued > LONGEST_LIFE_SECONDS:
            raise Unauthenticated("the token lives longer than one hour")

    async def _known_keys(self, *, renew: bool = False) -> KeySet:
        now = time.monotonic()
        fresh = self._keys is not None and now - self._fetched < FRESH_SECONDS
        if self._keys is not None and ((fresh and not renew) or now - self._tried < COOL_DOWN_SECONDS):
            return self._keys
        asked_just_now = now - self._tried < min(1, COOL_DOWN_SECONDS) and not self._lock.locked()
        if self._keys is None and asked_just_now:
            raise IssuerAway("the identity provider cannot be reached: try again later")
        async with self._lock:
            # Whoever waited here while another asked takes what that one got.
            if self._tried < now:
                self._tried = time.monotonic()
                await self._fetch()
        if self._keys is None:
            raise IssuerAway("the identity provider cannot be reached: try again later")
        return self._keys

    async def _fetch(self) -> None:
        try:
            found = await self._http.get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            found.raise_for_status()
            described = found.json()
            if described.get("issuer") != self._issuer:
                return
            keys = await self._http.get(described["jwks_uri"])
            keys.raise_for_status()
            self._keys = KeySet.import_key_set(keys.json())
            self._remembered.clear()  # a key may be gone
            self._fetched = time.monotonic()
        except (httpx.HTTPError, ValueError, KeyError, TypeError, JoseError):
            if time.monotonic() - self._fetched > LAST_GOOD_SECONDS:
                self._keys = None
                self._remembered.clear()


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
