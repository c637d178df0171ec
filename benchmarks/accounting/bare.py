"""What the plumbing stands on, alone: `python -m benchmarks.accounting.bare PORT`.

A FastAPI route that knows its answer, with as many parameters as a balance has, served as the services are. What it
takes nobody who uses FastAPI can save; what a balance takes beyond it is the token, the database and the answer.
"""

import sys
from typing import Annotated, Any

from aifn_common.service import calm_garbage_collection, serve
from aifn_common.settings import ServiceSettings
from fastapi import FastAPI, Query
from pydantic import SecretStr

BALANCES = [{"allocation_id": f"alloc-{number}", "available": 10**12, "reason": "x" * 900} for number in range(2)]
app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})


@app.get("/projects/{project_id}/balances")
async def balances(
    project_id: str, limit: Annotated[int, Query(ge=1, le=200)] = 50, after: str | None = None
) -> dict[str, Any]:
    """The same for everybody."""
    return {"project_id": project_id, "items": BALANCES[:limit], "next": after}


if __name__ == "__main__":
    calm_garbage_collection()
    nowhere = SecretStr("postgresql://nobody@127.0.0.1/nothing")
    serve(app, ServiceSettings(factory="lumi-aif", database_url=nowhere, kafka="127.0.0.1:1", port=int(sys.argv[1])))
