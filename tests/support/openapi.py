"""Makes requests from an OpenAPI document: the examples it gives are taken at their word."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Call:
    """One operation with everything it needs."""

    method: str
    path: str
    query: dict[str, Any]
    headers: dict[str, str]
    body: Any

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"


def calls(document: dict[str, Any]) -> Iterator[Call]:
    """Every operation of a document, with its examples filled in."""
    for path, operations in document["paths"].items():
        for method in METHODS:
            if method in operations:
                yield _call(document, path, method, operations[method])


def _call(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> Call:
    query: dict[str, Any] = {}
    for parameter in operation.get("parameters", []):
        value = example(document, parameter["schema"] | {k: v for k, v in parameter.items() if k == "examples"})
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", str(value))
        elif parameter["in"] == "query" and parameter.get("required"):
            query[parameter["name"]] = value
    content = operation.get("requestBody", {}).get("content", {})
    body = example(document, content["application/json"]["schema"]) if content else None
    headers = {"if-match": '"r0"'} if method in ("put", "patch", "delete") else {}
    return Call(method, path, query, headers, body)


def example(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """A value that fits a schema: its example, its default, or the smallest thing that fits."""
    if "$ref" in schema:
        return example(document, document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]] | _rest(schema))
    if isinstance(schema.get("examples"), list) and schema["examples"]:
        return schema["examples"][0]
    if "default" in schema:
        return schema["default"]
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return example(document, next(one for one in schema[several] if one.get("type") != "null"))
    if "allOf" in schema:
        return example(document, schema["allOf"][0])
    match schema.get("type"):
        case "object":
            wanted = set(schema.get("required", []))
            return {n: example(document, one) for n, one in schema.get("properties", {}).items() if n in wanted}
        case "array":
            return [example(document, schema["items"])] * schema.get("minItems", 0)
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case _:
            return "unknown"


def _rest(schema: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != "$ref"}
