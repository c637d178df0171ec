"""Only a token of the right issuer, for the right service, in its time, is believed; anything else is a plain 401."""

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from aifn_common import oidc
from aifn_common.errors import Unauthenticated
from aifn_common.oidc import IssuerAway, TokenValidator
from aifn_local.issuer import DevIssuer
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey, RSAKey

ISSUER = "http://issuer.test"


class Published:
    """What the issuer's site answers, and how often it was asked."""

    def __init__(self, issuer: DevIssuer) -> None:
        self.issuer = issuer
        self.away = False
        self.asked: list[str] = []
        self.claims_to_be = issuer.issuer

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(str(request.url))
        if self.away:
            raise httpx.ConnectError("nobody there")
        if request.url.path == "/jwks":
            return httpx.Response(200, json=self.issuer.jwks())
        return httpx.Response(200, json=self.issuer.configuration() | {"issuer": self.claims_to_be})


def validator(published: Published) -> TokenValidator:
    return TokenValidator(ISSUER, "aifn-registry", http=httpx.AsyncClient(transport=httpx.MockTransport(published)))


@pytest.fixture
def published() -> Published:
    return Published(DevIssuer(ISSUER))


async def test_a_good_token_tells_who_it_is_and_what_was_entrusted_to_them(published: Published) -> None:
    token = published.issuer.token("pi", subject="mari", entitlements=["applicant", "pi:project:p-1"])
    assert await validator(published).identify(token) == oidc.Identity("mari", ("applicant", "pi:project:p-1"))


NOW = int(time.time())
WRONG_CLAIMS: dict[str, dict[str, Any]] = {
    "expired": {"iat": NOW - 7000, "nbf": NOW - 7000, "exp": NOW - 3600},
    "not good yet": {"iat": NOW + 600, "nbf": NOW + 600, "exp": NOW + 1200},
    "not before a later moment": {"nbf": NOW + 600},
    "of a foreign issuer": {"iss": "http://evil.test"},
    "of an issuer with a slash too many": {"iss": ISSUER + "/"},
    "for another service": {"aud": ["aifn-accounting"]},
    "for nobody": {"aud": None},
    "for an almost right name": {"aud": "aifn-registry2"},
    "living longer than an hour": {"exp": NOW + 7200},
    "without an end": {"exp": None},
    "without a beginning": {"iat": None},
    "with an end in words": {"exp": "tomorrow"},
    "with a truth value as its end": {"exp": True},
    "without a subject": {"sub": None},
    "with an empty subject": {"sub": ""},
    "with a subject that is a number": {"sub": 7},
    "with a subject beyond all bounds": {"sub": "s" * 300},
}


@pytest.mark.parametrize("claims", WRONG_CLAIMS.values(), ids=WRONG_CLAIMS)
async def test_a_signed_token_with_wrong_claims_is_refused(published: Published, claims: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        await validator(published).identify(published.issuer.token("pi", **claims))


@pytest.mark.parametrize("words", [None, "factory-admin:factory:lumi-aif", {"a": 1}, [1, None]])
async def test_entitlements_of_a_wrong_shape_give_nothing(published: Published, words: Any) -> None:
    token = published.issuer.token("pi") if words is None else published.issuer.token("pi", entitlements=words)
    if isinstance(words, list):
        assert (await validator(published).identify(token)).entitlements == ()
    elif words is not None:
        # The issuer itself makes a list of what it is given; no word of it is a role.
        assert "factory-admin:factory:lumi-aif" not in (await validator(published).identify(token)).entitlements


def part(value: object) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def claims() -> dict[str, Any]:
    return {"iss": ISSUER, "sub": "x", "aud": "aifn-registry", "iat": NOW, "exp": NOW + 600}


def with_header(good: str, header: object) -> str:
    return ".".join([part(header), *good.split(".")[1:]])


FORGED: dict[str, Callable[[str, DevIssuer], str]] = {
    "with no signature at all": lambda good, _: f"{part({'alg': 'none', 'typ': 'at+jwt'})}.{good.split('.')[1]}.",
    "with the word none in other letters": lambda good, _: with_header(good, {"alg": "None", "typ": "at+jwt"}),
    "signed with the public key as if it were a secret": lambda _, issuer: jwt.encode(
        {"alg": "HS256", "typ": "at+jwt", "kid": issuer.jwks()["keys"][0]["kid"]},
        claims(),
        OctKey.import_key(json.dumps(issuer.jwks()["keys"][0])),
        algorithms=["HS256"],
    ),
    "signed with another algorithm's key": lambda _, issuer: jwt.encode(
        {"alg": "RS256", "typ": "at+jwt", "kid": issuer.jwks()["keys"][0]["kid"]}, claims(), RSAKey.generate_key(2048)
    ),
    "signed by somebody else under our key's name": lambda _, issuer: _signed_by(
        DevIssuer(ISSUER), issuer.jwks()["keys"][0]["kid"]
    ),
    "of an unknown key": lambda *_: DevIssuer(ISSUER).token("pi"),
    "empty": lambda *_: "",
    "of dots": lambda *_: "....",
    "with letters that no token has": lambda *_: "é.é.é",
    "that is encrypted": lambda good, _: good + ".AAAA.AAAA",
    "with a header that is a list": lambda good, _: with_header(good, [1]),
    "with a header that is null": lambda good, _: with_header(good, None),
    "with an algorithm that is a number": lambda good, _: with_header(good, {"alg": 5}),
    "with an algorithm that is a list": lambda good, _: with_header(good, {"alg": ["ES256"]}),
    "with a key name that is a list": lambda good, _: with_header(good, {"alg": "ES256", "kid": ["a"]}),
    "with a key name that is an object": lambda good, _: with_header(good, {"alg": "ES256", "kid": {"a": 1}}),
    "with a critical word nobody knows": lambda good, _: with_header(good, {"alg": "ES256", "crit": ["x"], "x": 1}),
    "with a critical word that is no list": lambda good, _: with_header(good, {"alg": "ES256", "crit": "x"}),
    "with a header of deep brackets": lambda good, _: with_header(good, b"[" * 5000),
    "with a header that is no text": lambda good, _: with_header(good, b"\xff\xfe"),
    "with a number of 5,000 digits": lambda good, _: with_header(good, b'{"alg":' + b"9" * 5000 + b"}"),
    "without its signature": lambda good, _: good.rsplit(".", 1)[0] + ".",
    "with a short signature": lambda good, _: good.rsplit(".", 1)[0] + ".AAAA",
    "longer than any token": lambda good, _: good + "A" * 20_000,
}


def _signed_by(other: DevIssuer, kid: str) -> str:
    header = {"alg": "ES256", "typ": "at+jwt", "kid": kid}
    return jwt.encode(header, claims(), other._key, algorithms=["ES256"])


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
async def test_a_forged_token_is_refused_and_breaks_nothing(
    published: Published, forge: Callable[[str, DevIssuer], str]
) -> None:
    token = forge(published.issuer.token("pi"), published.issuer)
    with pytest.raises(Unauthenticated):
        await validator(published).identify(token)


@pytest.mark.parametrize("kind", ["JWT", "", "id_token"])
async def test_a_token_of_another_kind_is_refused(published: Published, kind: str) -> None:
    issuer = published.issuer
    header = {"alg": "ES256", "typ": kind, "kid": issuer.jwks()["keys"][0]["kid"]}
    with pytest.raises(Unauthenticated, match="access token"):
        await validator(published).identify(jwt.encode(header, claims(), issuer._key, algorithms=["ES256"]))


async def test_a_key_address_in_the_token_is_never_asked(published: Published) -> None:
    evil = DevIssuer(ISSUER)
    header = {
        "alg": "ES256",
        "typ": "at+jwt",
        "kid": evil.jwks()["keys"][0]["kid"],
        "jku": "http://evil.test/jwks",
        "jwk": evil.jwks()["keys"][0],
        "x5u": "http://evil.test/x5u",
    }
    with pytest.raises(Unauthenticated):
        await validator(published).identify(jwt.encode(header, claims(), evil._key, algorithms=["ES256"]))
    assert {httpx.URL(url).host for url in published.asked} == {"issuer.test"}


_FUZZED = Published(DevIssuer(ISSUER))
_GOOD = _FUZZED.issuer.token("pi")


@given(st.integers(0, len(_GOOD) - 1), st.characters(codec="latin-1"))
async def test_a_token_with_any_letter_changed_is_refused_or_says_the_same(place: int, letter: str) -> None:
    token = _GOOD[:place] + letter + _GOOD[place + 1 :]
    known = validator(_FUZZED)
    identity = await known.identify(_GOOD)
    try:
        # The last letter of a part carries bits that mean nothing, so a changed one may say the same.
        assert await known.identify(token) == identity
    except Unauthenticated:
        assert token != _GOOD


async def test_while_the_issuer_is_away_the_known_keys_serve(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oidc, "REMEMBERED_SECONDS", 0)
    known = validator(published)
    token = published.issuer.token("pi")
    await known.identify(token)
    published.away = True
    monkeypatch.setattr(oidc, "FRESH_SECONDS", 0)
    monkeypatch.setattr(oidc, "COOL_DOWN_SECONDS", 0)
    assert (await known.identify(token)).subject
    monkeypatch.setattr(oidc, "LAST_GOOD_SECONDS", -1)
    with pytest.raises(Unauthenticated, match="cannot be reached"):
        await known.identify(token)
    published.away = False
    assert (await known.identify(token)).subject


async def test_a_good_token_is_looked_at_once_in_a_while_and_never_believed_beyond_its_end(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, looks = validator(published), 0
    look = known._decode

    def counted(token: str, keys: KeySet) -> jwt.Token:
        nonlocal looks
        looks += 1
        return look(token, keys)

    monkeypatch.setattr(known, "_decode", counted)
    monkeypatch.setattr(oidc, "REMEMBERED_TOKENS", 2)
    now = int(time.time())
    token = published.issuer.token("pi", iat=now - 10, exp=now + 30)
    for _ in range(3):
        assert (await known.identify(token)).subject == "pi"
    assert looks == 1
    for _ in range(2):  # more tokens than are remembered
        await known.identify(published.issuer.token("member"))
    await known.identify(token)
    assert looks == 4
    monkeypatch.setattr(oidc, "LEEWAY_SECONDS", 0)
    monkeypatch.setattr(time, "time", lambda: now + 91.0)
    with pytest.raises(Unauthenticated, match="expired"):
        await known.identify(token)


async def test_a_service_that_has_never_reached_the_issuer_says_so_and_recovers(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = validator(published)
    published.away = True
    with pytest.raises(Unauthenticated, match="cannot be reached"):
        await known.identify(published.issuer.token("pi"))
    published.away = False
    monkeypatch.setattr(oidc, "COOL_DOWN_SECONDS", 0)
    assert (await known.identify(published.issuer.token("pi"))).subject


async def test_many_requests_at_once_ask_an_issuer_that_is_away_only_once_or_twice(published: Published) -> None:
    known = validator(published)
    published.away = True
    token = published.issuer.token("pi")
    answers = await asyncio.gather(*(known.identify(token) for _ in range(20)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {IssuerAway}
    assert len(published.asked) <= 2


async def test_a_new_key_is_learnt_and_a_withdrawn_one_is_forgotten(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = validator(published)
    old = published.issuer.token("pi")
    await known.identify(old)
    published.issuer = DevIssuer(ISSUER)
    monkeypatch.setattr(oidc, "COOL_DOWN_SECONDS", 0)
    assert (await known.identify(published.issuer.token("pi"))).subject
    with pytest.raises(Unauthenticated):
        await known.identify(old)


async def test_unknown_keys_do_not_make_us_ask_the_issuer_again_and_again(published: Published) -> None:
    known = validator(published)
    await known.identify(published.issuer.token("pi"))
    before = len(published.asked)
    for _ in range(20):
        with pytest.raises(Unauthenticated):
            await known.identify(DevIssuer(ISSUER).token("pi"))
    assert len(published.asked) <= before + 2


async def test_a_site_that_speaks_for_another_issuer_is_not_believed(published: Published) -> None:
    published.claims_to_be = "http://evil.test"
    with pytest.raises(Unauthenticated):
        await validator(published).identify(published.issuer.token("pi"))
