"""What the client reads is what the services show: compared with their own OpenAPI documents."""

from typing import get_args, get_origin

import pytest
from aifn_client.models import Finding, Partition, View

from tests.client.samples import WHERE, resolve, sample, shown

# Fields a view has for another answer's sake: a finding is read from applications and requests, capacity only where a
# partition is asked for by itself.
_ABSENT_INSIDE: dict[type[View], frozenset[str]] = {
    Finding: frozenset({"passed", "outcome"}),
    Partition: frozenset({"capacity"}),
}


@pytest.mark.parametrize("kind", WHERE, ids=lambda kind: kind.__name__)
def test_every_field_that_is_read_is_one_the_service_shows(kind: type[View]) -> None:
    _compare(WHERE[kind][0], kind, shown(kind))


def _compare(service: str, kind: type[View], schema: dict[str, object], absent: frozenset[str] = frozenset()) -> None:
    fields = schema["properties"]
    assert isinstance(fields, dict)
    assert set(kind.model_fields) <= set(fields) | absent
    for name, field in kind.model_fields.items():
        part = _view_in(field.annotation)
        if part is not None and name in fields:
            _compare(service, part, _object_in(service, fields[name]), _ABSENT_INSIDE.get(part, frozenset()))


def _view_in(annotation: object) -> type[View] | None:
    if isinstance(annotation, type) and issubclass(annotation, View) and get_origin(annotation) is None:
        return annotation
    return next((found for part in get_args(annotation) if (found := _view_in(part))), None)


def _object_in(service: str, schema: dict[str, object]) -> dict[str, object]:
    """The schema of the object inside a list or beside null."""
    schema = resolve(service, schema)
    if isinstance(schema.get("items"), dict):
        return _object_in(service, schema["items"])  # type: ignore[arg-type]
    options = schema.get("anyOf")
    return _object_in(service, options[0]) if isinstance(options, list) else schema


@pytest.mark.parametrize("kind", WHERE, ids=lambda kind: kind.__name__)
def test_a_thing_is_kept_just_as_it_came_beside_what_is_shown(kind: type[View]) -> None:
    raw = {**sample(kind), "a_field_of_tomorrow": [1, {"x": "2.50"}]}
    view = kind.of(raw)
    assert view.raw == raw
    assert not hasattr(view, "a_field_of_tomorrow")
