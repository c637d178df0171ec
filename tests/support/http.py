"""Asks a service's API as a person with a role would, without a network: same routes, same checks, same database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from aifn_common.answering import make_api
from aifn_common.database import Database
from aifn_common.oidc import TokenValidator
from aifn_common.service import Service
from aifn_common.settings import ServiceSettings
from aifn_local.issuer import DevIssuer

ISSUER = DevIssuer("http://issuer.test")


def _published(request: httpx.Request) -> httpx.Response:
    known = {"/.well-known/openid-configuration": ISSUER.configuration, "/jwks": ISSUER.jwks}
    return httpx.Response(200, json=known[request.url.path]())


def validator(service: Service) -> TokenValidator:
    """Recognises the test issuer's tokens, by its published keys."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(_published))
    return TokenValidator(ISSUER.issuer, service.audience, http=http)


class Asker(httpx.AsyncClient):
    """An HTTP client that can speak as anybody: `asker.as_("pi", subject="mari")` sets who asks from now on."""

    def as_(self, persona: str, subject: str | None = None, entitlements: list[str] | None = None) -> "Asker":
        """Speak as this person from now on."""
        self.headers["authorization"] = f"Bearer {ISSUER.token(persona, subject=subject, entitlements=entitlements)}"
        return self


@asynccontextmanager
async def asking(service: Service, db: Database, settings: ServiceSettings, **options: Any) -> AsyncIterator[Asker]:
    """A client of a service's API on the given database. Our own faults are raised here, not answered."""
    app = make_api(service, settings, validator=validator(service))
    app.state.db = db
    app.state.validator = validator(service)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=options.pop("raise_faults", True))
    async with Asker(transport=transport, base_url="http://service.test", **options) as asker:
        yield asker
