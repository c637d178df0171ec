"""Opens the development issuer, which serves the loopback alone, to one test network. It runs inside a container."""

import uvicorn
from aifn_local.issuer import DevIssuer, create_app
from starlette.types import Receive, Scope, Send

inside = create_app(DevIssuer("http://issuer:8099"))


async def door(scope: Scope, receive: Receive, send: Send) -> None:
    """Whoever reaches this network counts as this machine."""
    if scope["type"] == "http":
        headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
        scope = {**scope, "client": ("127.0.0.1", 0), "headers": [*headers, (b"host", b"127.0.0.1:8099")]}
    await inside(scope, receive, send)


if __name__ == "__main__":
    uvicorn.run(door, host="0.0.0.0", port=8099, log_level="warning", access_log=False)  # noqa: S104
