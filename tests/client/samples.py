"""What the services say of themselves: each answer here is made from the examples in their own OpenAPI documents."""

import re
from functools import cache
from typing import Any

from aifn_accounting.app import service as accounting
from aifn_client import models, period_models, pool_models
from aifn_common.answering import describe_api
from aifn_datalab.app import service as datalab
from aifn_registry.app import service as registry
from aifn_scheduler.app import service as scheduler
from aifn_skills.app import service as skills

Object = dict[str, Any]

_SERVICES = {one.name: one for one in (accounting, datalab, registry, scheduler, skills)}

WHERE: dict[type[models.View], tuple[str, str, str]] = {
    models.Factory: ("registry", "get", "/v1/factories/{factory_id}"),
    models.Machine: ("registry", "get", "/v1/machines/{machine_id}"),
    models.Partition: ("registry", "get", "/v1/partitions/{partition_id}"),
    models.Mode: ("scheduler", "get", "/v1/modes/{mode_id}"),
    models.Call: ("scheduler", "get", "/v1/calls"),
    models.Application: ("scheduler", "get", "/v1/applications/{application_id}"),
    models.Job: ("scheduler", "get", "/v1/jobs/{job_id}"),
    models.Why: ("scheduler", "get", "/v1/jobs/{job_id}/why"),
    models.Project: ("accounting", "get", "/v1/projects/{project_id}"),
    models.Allocation: ("accounting", "get", "/v1/allocations/{allocation_id}"),
    pool_models.Pool: ("accounting", "get", "/v1/pools/{pool_id}"),
    pool_models.Cap: ("accounting", "get", "/v1/caps/{cap_id}"),
    pool_models.Headroom: ("accounting", "get", "/v1/headroom"),
    pool_models.Approval: ("accounting", "get", "/v1/approvals"),
    pool_models.Correction: ("accounting", "get", "/v1/corrections"),
    pool_models.Clearing: ("accounting", "get", "/v1/clearing"),
    pool_models.ClearingMonth: ("accounting", "get", "/v1/clearing/{other}/months/{month}"),
    models.Transfer: ("accounting", "get", "/v1/allocations/{allocation_id}/statement"),
    models.UsageEvent: ("accounting", "get", "/v1/usage-events"),
    models.JobCharges: ("accounting", "get", "/v1/jobs/{job_id}/charges"),
    period_models.RateCard: ("accounting", "get", "/v1/rate-cards"),
    period_models.Quote: ("accounting", "post", "/v1/rate-cards/quote"),
    period_models.Period: ("accounting", "get", "/v1/periods"),
    period_models.MonthTotal: ("accounting", "get", "/v1/periods/{month}/totals"),
    period_models.LinkedEntry: ("accounting", "get", "/v1/periods/{month}/entries"),
    period_models.PeriodCheck: ("accounting", "get", "/v1/periods/{month}/verify"),
    period_models.Gap: ("accounting", "get", "/v1/gaps"),
    models.Verification: ("accounting", "get", "/v1/ledger/verify"),
    models.Dataset: ("datalab", "get", "/v1/datasets/{dataset_id}"),
    models.AccessRequest: ("datalab", "get", "/v1/access-requests/{request_id}"),
    models.Course: ("skills", "get", "/v1/courses/{course_id}"),
    models.Session: ("skills", "get", "/v1/sessions/{session_id}"),
    models.Seat: ("skills", "post", "/v1/sessions/{session_id}/seats"),
    models.Suggestion: ("skills", "get", "/v1/suggestions"),
    models.DeadLetter: ("accounting", "get", "/v1/dead-letters"),
    models.Replayed: ("accounting", "post", "/v1/dead-letters/{number}/replay"),
}
_BY_TYPE: Object = {"integer": 1, "boolean": True, "string": "words", "object": {}, "null": None}


@cache
def document(service: str) -> Object:
    """The OpenAPI document of a service."""
    found: Object = describe_api(_SERVICES[service]).openapi()
    return found


def route(service: str, method: str, path: str) -> Object | None:
    """What a service says of the route that a path leads to; None if there is none."""
    for template, routes in document(service)["paths"].items():
        pattern = re.sub(r"\{[a-z_]+\}", "[^/]+", template)
        if re.fullmatch(pattern, path) and method in routes:
            found: Object = routes[method]
            return found
    return None


def shown(kind: type[models.View]) -> Object:
    """The JSON Schema of what a service shows where the client reads such a thing."""
    service, method, path = WHERE[kind]
    responses = document(service)["paths"][path][method]["responses"]
    content = next(responses[status] for status in ("200", "201") if status in responses)["content"]
    schema = resolve(service, content["application/json"]["schema"])
    if "items" in schema["properties"] and "next" in schema["properties"]:
        return resolve(service, schema["properties"]["items"]["items"])
    return schema


def resolve(service: str, schema: Object) -> Object:
    """A schema itself, where another only names it."""
    if "$ref" not in schema:
        return schema
    found: Object = document(service)["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return resolve(service, found)


def sample(kind: type[models.View], **values: Any) -> Object:
    """What the API answers for a thing, with some fields set."""
    made: Object = _example(WHERE[kind][0], shown(kind))
    unknown = set(values) - set(made)
    assert not unknown, f"the service shows no {unknown}"
    return made | values


def _example(service: str, schema: Object) -> Any:
    if schema.get("examples"):
        return schema["examples"][0]
    schema = resolve(service, schema)
    if schema.get("examples"):
        return schema["examples"][0]
    if "enum" in schema or "const" in schema:
        return schema["enum"][0] if "enum" in schema else schema["const"]
    if "anyOf" in schema:
        return _example(service, schema["anyOf"][0])
    if "properties" in schema:
        return {name: _example(service, field) for name, field in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_example(service, schema["items"]) for _ in range(schema.get("minItems", 1))]
    if schema.get("format") == "date-time":
        return "2026-11-21T09:00:00Z"
    return _BY_TYPE[schema["type"]]
