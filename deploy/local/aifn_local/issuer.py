"""The development issuer: OpenID discovery, keys made at start, and one-hour tokens for the personas of personas.toml.

It is for laptops and tests: a process of its own, on the loopback only, in no image. `python -m aifn_local.issuer`.
"""

import argparse
import ipaddress
import sys
import time
import tomllib
import uuid
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from joserfc import jwt
from joserfc.jwk import ECKey
from pydantic import BaseModel, ConfigDict
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import Response

AUDIENCES = (
    "aifn-registry",
    "aifn-accounting",
    "aifn-scheduler",
    "aifn-datalab",
    "aifn-skills",
    "aifn-siteagent",
)
TOKEN_SECONDS = 3600
_ALGORITHM = "ES256"
FACTORY = "lumi-aif"
_LARGEST_FORM = 16_384
_LOOPBACK_NAMES = {"127.0.0.1", "localhost", "::1"}


class Persona(BaseModel):
    """Somebody the issuer can speak for. `subject` is the `sub` of the tokens."""

    model_config = ConfigDict(frozen=True)

    persona: str
    subject: str
    name: str
    entitlements: tuple[str, ...]


class UnknownPersona(ValueError):
    """Nobody of that name is in personas.toml."""


@cache
def personas(factory: str = FACTORY) -> dict[str, Persona]:
    """Everybody in personas.toml, by key, as people of this factory.

    >>> personas()["newcomer"].entitlements
    ()
    >>> personas("bsc-aif")["trainer"].entitlements
    ('trainer:factory:bsc-aif',)
    """
    text = resources.files("aifn_local").joinpath("personas.toml").read_text(encoding="utf-8")
    people = tomllib.loads(text.replace(f":factory:{FACTORY}", f":factory:{factory}"))
    return {key: Persona(persona=key, subject=key, **entry) for key, entry in people.items()}


class DevIssuer:
    """Mints tokens and publishes the key that proves them; also used in-process by tests."""

    def __init__(self, issuer: str = "http://127.0.0.1:8099", factory: str = FACTORY) -> None:
        """`issuer`: the `iss` of the tokens, where discovery is served. The key is new each time.

        `factory`: whose people its personas are.
        """
        self.issuer = issuer.rstrip("/")
        self.personas = personas(factory)
        self._key = ECKey.generate_key("P-256", {"use": "sig", "alg": _ALGORITHM, "kid": uuid.uuid4().hex})

    def token(
        self,
        persona: str,
        subject: str | None = None,
        entitlements: Sequence[str] | None = None,
        **claim_overrides: Any,
    ) -> str:
        """Sign an access token (RFC 9068) for a persona.

        Args:
            subject, entitlements: instead of the persona's own.
            claim_overrides: any claim, e.g. exp=0 for an expired token; None leaves the claim out.
        Raises: UnknownPersona.
        """
        who = self.personas.get(persona)
        if who is None:
            raise UnknownPersona(f"no persona {persona!r}; there are {', '.join(self.personas)}")
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": subject or who.subject,
            "aud": list(AUDIENCES),
            "client_id": "aifn-cli",
            "iat": now,
            "nbf": now,
            "exp": now + TOKEN_SECONDS,
            "jti": uuid.uuid4().hex,
            "name": who.name,
            "entitlements": list(who.entitlements if entitlements is None else entitlements),
        }
        claims = {key: value for key, value in (claims | claim_overrides).items() if value is not None}
        header = {"alg": _ALGORITHM, "typ": "at+jwt", "kid": self._key.kid}
        return jwt.encode(header, claims, self._key, algorithms=[_ALGORITHM])

    def jwks(self) -> dict[str, Any]:
        """The public half of the key, as a JSON Web Key Set."""
        return {"keys": [dict(self._key.as_dict(private=False))]}

    def configuration(self) -> dict[str, Any]:
        """What OpenID discovery answers."""
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/jwks",
            "token_endpoint": f"{self.issuer}/token",
            "response_types_supported": ["token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [_ALGORITHM],
            "token_endpoint_auth_methods_supported": ["none"],
        }


def create_app(issuer: DevIssuer) -> FastAPI:
    """The issuer's HTTP side. It answers callers on this machine that asked for a name of the loopback."""
    app = FastAPI(title="AIFN development issuer", docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def loopback_only(request: Request, call_next: RequestResponseEndpoint) -> Response:
        # The name as well as the address: a web page may point a name of its own at the loopback.
        if (
            not _is_loopback(request.client.host if request.client else "")
            or request.url.hostname not in _LOOPBACK_NAMES
        ):
            return JSONResponse({"error": "access_denied", "error_description": "loopback only"}, status_code=403)
        return await call_next(request)

    @app.get("/.well-known/openid-configuration")
    async def discovery() -> dict[str, Any]:
        return issuer.configuration()

    @app.get("/jwks")
    async def keys() -> dict[str, Any]:
        return issuer.jwks()

    @app.get("/personas")
    async def list_personas() -> list[Persona]:
        return list(issuer.personas.values())

    @app.post("/token")
    async def token(request: Request) -> JSONResponse:
        form = await _form(request)
        if form is None:
            return _invalid("the form is too large or is not UTF-8")
        try:
            signed = issuer.token(
                form.get("persona", [""])[0], subject=form.get("subject", [None])[0], entitlements=form.get("roles")
            )
        except UnknownPersona as error:
            return _invalid(str(error))
        body = {"access_token": signed, "token_type": "Bearer", "expires_in": TOKEN_SECONDS}
        return JSONResponse(body, headers={"Cache-Control": "no-store"})

    return app


async def _form(request: Request) -> dict[str, list[Any]] | None:
    """The fields of a URL-encoded body, each with its values; None when it is too large or not text."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_FORM:
            return None
    try:
        return parse_qs(body.decode(), max_num_fields=64)
    except ValueError:
        return None


def _invalid(why: str) -> JSONResponse:
    """RFC 6749, section 5.2."""
    return JSONResponse({"error": "invalid_request", "error_description": why}, status_code=400)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped. Exit status 2 for a host that is not this machine."""
    parser = argparse.ArgumentParser(
        prog="python -m aifn_local.issuer", description="Development issuer: loopback only."
    )
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--factory", default=FACTORY, help="whose people the personas are")
    chosen = parser.parse_args(arguments)
    if not _is_loopback(chosen.host):
        print(f"aifn: the development issuer serves the loopback only, not {chosen.host}", file=sys.stderr)
        return 2
    host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
    app = create_app(DevIssuer(f"http://{host}:{chosen.port}", chosen.factory))
    uvicorn.run(app, host=chosen.host, port=chosen.port, log_level="warning", access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
