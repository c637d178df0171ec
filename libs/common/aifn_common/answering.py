"""Puts the HTTP side of a service together: its routes, who may ask, the answers to what goes wrong."""

import pkgutil
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
from fastapi import APIRouter, FastAPI

from aifn_common import operations
from aifn_common.database import Opening
from aifn_common.health import add_probes
from aifn_common.oidc import TokenValidator
from aifn_common.problems import BodyLimit, add_problems
from aifn_common.rooms import Service
from aifn_common.settings import ServiceSettings


def make_api(service: Service, settings: ServiceSettings, *, validator: TokenValidator | None = None) -> FastAPI:
    """The HTTP side of a service. Until the database answers, only the probes say something useful."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(httpx.AsyncClient(timeout=5))
            app.state.validator = validator or TokenValidator(settings.oidc_issuer, service.audience, http=http)
            await stack.enter_async_context(opening.pool(lambda db: setattr(app.state, "db", db)))
            yield

    opening = Opening(settings.database_url.get_secret_value(), settings.database_connections)
    app = describe_api(service)
    app.router.lifespan_context = life
    app.state.settings = settings
    app.state.db = None
    app.add_middleware(BodyLimit, most=settings.max_body_bytes)
    add_problems(app)
    add_probes(app, packages=service.packages, db=lambda: app.state.db, watch=lambda: None, opening=opening)
    return app


def describe_api(service: Service) -> FastAPI:
    """The routes of a service alone: enough for its OpenAPI document."""
    # What a route does is measured by ours; the framework's own spans would double each, and take their time.
    app = FastAPI(
        title=f"AIFN {service.name}",
        version="0.1.0",
        redoc_url=None,
        docs_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    for router in (*_routers(service.routers), operations.router):
        # Not include_router: a router that is included looks for the route twice, and asks each in a roundabout way.
        app.router.routes.extend(router.routes)
    return app


def _routers(named: Iterable[APIRouter | str]) -> Iterator[APIRouter]:
    for one in named:
        found: APIRouter | list[APIRouter] = pkgutil.resolve_name(one) if isinstance(one, str) else one
        yield from found if isinstance(found, list) else [found]
