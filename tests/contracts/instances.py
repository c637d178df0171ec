"""Values that a published JSON Schema allows, for hypothesis: made from the schema alone, not from our classes."""

import re
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

_TEXT = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
# What is written must come back the same, so moments are drawn as our own services write them.
_MOMENTS = st.datetimes(min_value=datetime(1, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda moment: moment.isoformat().replace("+00:00", "Z")
)

_KNOWN = (
    {"$schema", "$id", "$defs", "$ref", "title", "description", "examples", "default", "x-aifn-key"}
    | {"type", "format", "pattern", "enum", "const", "anyOf", "items", "properties", "required", "propertyNames"}
    | {"additionalProperties", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems"}
    | {"minProperties", "maxProperties"}
)


def instances(schema: dict[str, Any], root: dict[str, Any] | None = None) -> st.SearchStrategy[Any]:
    """Draw values that `schema` allows. An unknown keyword is an error, so that no rule is left out unseen."""
    root = root or schema
    assert schema.keys() <= _KNOWN, f"no rule here for {schema.keys() - _KNOWN}"
    if "$ref" in schema:
        return instances(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "anyOf" in schema:
        return st.one_of([instances(way, root) for way in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    match schema["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "string":
            return _texts(schema)
        case "array":
            least, most = schema.get("minItems", 0), min(schema.get("maxItems", 3), 3)
            return st.lists(instances(schema["items"], root), min_size=least, max_size=most)
        case "object" if "properties" in schema:
            return _objects(schema, root)
        case "object":
            keys, values = _texts(schema["propertyNames"]), instances(schema["additionalProperties"], root)
            least, most = schema.get("minProperties", 0), min(schema.get("maxProperties", 3), 3)
            return st.dictionaries(keys, values, min_size=least, max_size=most)
        case other:
            raise AssertionError(f"no values for the type {other}")


def _objects(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    parts = {name: instances(part, root) for name, part in schema["properties"].items()}
    required = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {name: part for name, part in parts.items() if name in required},
        optional={name: part for name, part in parts.items() if name not in required},
    )


def _texts(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if schema.get("format") == "date-time":
        return _MOMENTS
    if schema.get("format") == "date":
        return st.dates().map(str)
    if "pattern" in schema:
        # `$` of Python also stands before a last line break, `$` of JSON Schema does not.
        pattern = schema["pattern"].removesuffix("$") + r"\Z"
        found = st.from_regex(re.compile(pattern))
        return found.filter(lambda text: least <= len(text) <= (most or len(text)))
    return st.text(_TEXT, min_size=least, max_size=min(most or 40, 40))
