"""One factory's services in one process, for small sites and laptops: every API under its name, every worker inside.

A busy consumer slows the APIs here; where that matters, run each role as a process of its own.
"""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aifn_common import clock, telemetry
from aifn_common.answering import make_api
from aifn_common.service import Service, Worker, serve
from aifn_common.settings import ServiceSettings
from fastapi import FastAPI

from aifn_local.factory import API_SERVICES, parsed, service_of


def assemble(configured: dict[str, dict[str, str]]) -> tuple[FastAPI, list[ServiceSettings]]:
    """The process's application: `configured` gives each service's settings by the name of its database."""
    apis: list[tuple[str, FastAPI]] = []
    workers: list[tuple[Service, ServiceSettings]] = []
    all_settings = []
    for name, env in configured.items():
        service = service_of(name.split("_")[0])
        values = {key.removeprefix("AIFN_").lower(): value for key, value in env.items()}
        settings = service.settings.model_validate(parsed(values))
        all_settings.append(settings)
        workers.append((service, settings))
        if name in API_SERVICES:
            apis.append((name, make_api(service, settings)))

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for _name, api in apis:
                await stack.enter_async_context(api.router.lifespan_context(api))
            for service, settings in workers:
                await stack.enter_async_context(Worker(service, settings))
            yield

    app = FastAPI(title="AIFN", openapi_url=None, docs_url=None, redoc_url=None, lifespan=life)
    for name, api in apis:
        app.mount(f"/{name}", api)
    return app, all_settings


def main() -> None:
    """Run it. The configuration comes as JSON in AIFN_ALL_IN_ONE, the port in AIFN_PORT."""
    if "AIFN_ALL_IN_ONE" not in os.environ:
        sys.exit("AIFN_ALL_IN_ONE is not set: start this with `aifn up`")
    app, all_settings = assemble(json.loads(os.environ["AIFN_ALL_IN_ONE"]))
    telemetry.set_up("all-in-one", all_settings[0])
    clock.use(all_settings[0].clock())
    serve(app, all_settings[0].model_copy(update={"port": int(os.environ.get("AIFN_PORT", "8080"))}))


if __name__ == "__main__":
    main()
