"""What may change in a published schema, and that every other change is noticed."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from aifn_events.catalog import TOPICS, Topic
from aifn_events.compatibility import UnresolvableReference, breaking_changes
from aifn_events.publish import schema_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contracts.instances import instances

EVERY_TOPIC = pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
Schema = dict[str, Any]

ROOM: Schema = {
    "type": "object",
    "$defs": {"Seat": {"type": "object", "properties": {"row": {"type": "integer"}}, "required": ["row"]}},
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 10},
        "kind": {"enum": ["lab", "hall"], "type": "string"},
        "floor": {"type": "integer", "minimum": 0, "maximum": 9},
        "seats": {"type": "array", "items": {"$ref": "#/$defs/Seat"}, "maxItems": 5},
        "stock": {"type": "object", "additionalProperties": {"type": "integer"}, "propertyNames": {"maxLength": 5}},
        "note": {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}], "default": None},
        "closed": {"type": "boolean", "default": False},
    },
    "required": ["name", "kind", "floor", "seats", "stock"],
}


def changed(*path: str | int, to: Any) -> Schema:
    """ROOM with the value at one place replaced; `...` takes it away."""
    schema = copy.deepcopy(ROOM)
    place: Any = schema
    for step in path[:-1]:
        place = place[step]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return schema


NAME, FLOOR, NOTE, STOCK = (("properties", name) for name in ("name", "floor", "note", "stock"))
SEAT = ("$defs", "Seat")

BREAKING: list[tuple[str, Schema, str]] = [
    ("a required field is removed", changed(*NAME, to=...), "name: the required field was removed"),
    ("an optional field is removed", changed("properties", "closed", to=...), "closed: the optional field was removed"),
    ("a required field becomes optional", changed("required", to=ROOM["required"][1:]), "name: was required"),
    ("an optional one becomes required", changed("required", to=[*ROOM["required"], "note"]), "note: was optional"),
    ("a promise without a field", changed("required", to=[*ROOM["required"], "new"]), "new: a new field is required"),
    ("a type changes", changed(*FLOOR, "type", to="number"), "floor: the type was integer and is number"),
    ("a type goes", changed(*FLOOR, "type", to=...), "floor: the type was integer and is any"),
    ("a minimum rises", changed(*FLOOR, "minimum", to=1), "floor: minimum was 0 and is 1, which is narrower"),
    ("a minimum falls", changed(*FLOOR, "minimum", to=-1), "floor: minimum was 0 and is -1, which is wider"),
    ("a minimum goes", changed(*FLOOR, "minimum", to=...), "floor: minimum was 0 and is absent, which is wider"),
    ("a maximum rises", changed(*FLOOR, "maximum", to=10), "floor: maximum was 9 and is 10, which is wider"),
    ("a maximum falls", changed(*FLOOR, "maximum", to=8), "floor: maximum was 9 and is 8, which is narrower"),
    ("a text may be longer", changed(*NAME, "maxLength", to=11), "name: maxLength was 10 and is 11, which is wider"),
    ("a text must be longer", changed(*NAME, "minLength", to=1), "name: minLength was absent and is 1, which is narr"),
    ("a list may be longer", changed("properties", "seats", "maxItems", to=6), "seats: maxItems was 5 and is 6"),
    ("a pattern changes", changed(*NAME, "pattern", to="^[a-z0-9]+$"), "name: pattern was"),
    ("a pattern goes", changed(*NAME, "pattern", to=...), "name: pattern was"),
    ("a format comes", changed(*NAME, "format", to="date"), "name: format was absent and is 'date'"),
    ("a value is added", changed("properties", "kind", "enum", to=["lab", "hall", "x"]), "kind: the value 'x' was add"),
    ("a value is removed", changed("properties", "kind", "enum", to=["lab"]), "kind: the value 'hall' was removed"),
    ("the values are freed", changed("properties", "kind", "enum", to=...), "kind: a list of allowed values was rem"),
    ("a value is listed", changed(*FLOOR, "enum", to=[1]), "floor: a list of allowed values was added"),
    ("null is forbidden", changed(*NOTE, "anyOf", to=ROOM["properties"]["note"]["anyOf"][:1]), "note: may no longer"),
    ("null is allowed", changed(*FLOOR, "type", to=["integer", "null"]), "floor: may now also be null"),
    ("inside a nullable", changed(*NOTE, "anyOf", 0, "maxLength", to=8), "note: maxLength was 9 and is 8"),
    (
        "a default changes",
        changed("properties", "closed", "default", to=True),
        "closed: the default was False and is T",
    ),
    ("a default of null goes", changed(*NOTE, "default", to=...), "note: the default was None and is absent"),
    ("a default is zero, not no", changed("properties", "closed", "default", to=0), "closed: the default was False"),
    ("in a part, a type", changed(*SEAT, "properties", "row", "type", to="string"), "seats[].row: the type was"),
    ("in a part, required", changed(*SEAT, "required", to=["row", "x"]), "seats[].x: a new field is required"),
    ("in a part, removed", changed(*SEAT, "properties", to={}), "seats[].row: the required field was removed"),
    ("in a dictionary's values", changed(*STOCK, "additionalProperties", "minimum", to=0), "stock{}: minimum was abs"),
    ("in a dictionary's names", changed(*STOCK, "propertyNames", "maxLength", to=6), "stock{name}: maxLength was 5"),
    ("an object is closed", changed("additionalProperties", to=False), "{}: not was absent"),
    (
        "names get a rule",
        changed("patternProperties", to={"^x": {}}),
        "the value: the rule for names like ^x was added",
    ),
    ("an unknown rule", changed(*FLOOR, "multipleOf", to=2), "floor: multipleOf was absent and is 2"),
    ("the key", changed("x-aifn-key", to="name"), "the value: x-aifn-key was absent and is 'name'"),
]

HARMLESS: list[tuple[str, Schema]] = [
    ("a new optional field", changed("properties", "new", to={"type": "string", "default": ""})),
    ("a new optional field in a part", changed(*SEAT, "properties", "label", to={"type": "string"})),
    ("other words", changed(*NAME, "description", to="what it is called")),
    ("other examples", changed(*NAME, "examples", to=["aula"])),
    ("another title", changed("title", to="Room")),
    ("another order of values", changed("properties", "kind", "enum", to=["hall", "lab"])),
    ("another order of required fields", changed("required", to=ROOM["required"][::-1])),
    ("null named first", changed(*NOTE, "anyOf", to=ROOM["properties"]["note"]["anyOf"][::-1])),
    ("null in a list of types", changed(*NOTE, to={"type": ["string", "null"], "maxLength": 9, "default": None})),
    ("a part written in place", changed("properties", "seats", "items", to=ROOM["$defs"]["Seat"])),
    ("a rule that says nothing", changed(*NAME, "minLength", to=0)),
    ("openness in words", changed("additionalProperties", to=True)),
    ("deprecation", changed("properties", "closed", "deprecated", to=True)),
]


@pytest.mark.parametrize(("new", "reason"), [case[1:] for case in BREAKING], ids=[case[0] for case in BREAKING])
def test_a_breaking_change_is_named_and_so_is_its_reverse(new: Schema, reason: str) -> None:
    found = breaking_changes(ROOM, new)
    assert len(found) == 1, found
    assert found[0].startswith(reason)
    if "optional field was removed" not in reason:
        assert breaking_changes(new, ROOM)


@pytest.mark.parametrize("new", [case[1] for case in HARMLESS], ids=[case[0] for case in HARMLESS])
def test_a_harmless_change_is_let_through(new: Schema) -> None:
    assert breaking_changes(ROOM, new) == []


def test_a_renamed_part_is_the_same_part() -> None:
    new = json.loads(json.dumps(ROOM).replace("Seat", "Chair"))
    assert breaking_changes(ROOM, new) == []


def test_several_changes_are_all_named() -> None:
    new = changed(*NAME, to=...)
    new["properties"]["floor"]["maximum"] = 10
    assert len(breaking_changes(ROOM, new)) == 2


def test_a_field_where_other_fields_were_not_free_is_breaking() -> None:
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    assert breaking_changes(closed, {**closed, "properties": {"new": {"type": "string"}}}) == [
        "new: a new field where other fields were not free: readers of today refuse new messages"
    ]


def test_a_schema_that_contains_itself_is_compared_to_its_end() -> None:
    tree: Schema = {
        "$ref": "#/$defs/Tree",
        "$defs": {"Tree": {"type": "object", "properties": {"parts": {"items": {"$ref": "#/$defs/Tree"}}}}},
    }
    other = copy.deepcopy(tree)
    other["$defs"]["Tree"]["properties"]["parts"]["maxItems"] = 3
    assert breaking_changes(tree, copy.deepcopy(tree)) == []
    assert breaking_changes(tree, other)[0].startswith("parts: maxItems was absent and is 3, which is narrower")


def test_a_rule_beside_a_reference_counts() -> None:
    old: Schema = {"$defs": {"N": {"type": "integer", "minimum": 0}}, "properties": {"n": {"$ref": "#/$defs/N"}}}
    new = copy.deepcopy(old)
    new["properties"]["n"]["minimum"] = 1
    assert breaking_changes(old, new) == ["n: allOf had 0 parts and has 1"]
    assert breaking_changes(new, copy.deepcopy(new)) == []


@pytest.mark.parametrize("ref", ["#/$defs/Nobody", "https://example.org/x", "#/$defs/Loop", "#/required"])
def test_a_reference_that_leads_nowhere_is_refused(ref: str) -> None:
    schema = {"$defs": {"Loop": {"$ref": "#/$defs/Loop"}}, "required": ["a"], "properties": {"a": {"$ref": ref}}}
    with pytest.raises(UnresolvableReference):
        breaking_changes(schema, copy.deepcopy(schema))


@EVERY_TOPIC
def test_every_published_schema_is_compatible_with_itself(topic: Topic) -> None:
    assert breaking_changes(schema_of(topic), json.loads(json.dumps(schema_of(topic)))) == []


@EVERY_TOPIC
def test_every_published_schema_may_gain_an_optional_field(topic: Topic) -> None:
    new = schema_of(topic)
    new["properties"]["hint"] = {"type": "string", "default": ""}
    assert breaking_changes(schema_of(topic), new) == []


def mutations(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Every single change of one rule anywhere in a schema that is not just other words."""
    for path, keyword, value in _rules(schema, ()):
        for what, put in _other_values(keyword, value):
            new = copy.deepcopy(schema)
            place: Any = new
            for step in path:
                place = place[step]
            if put is ...:
                del place[keyword]
            else:
                place[keyword] = put
            yield f"{'/'.join(map(str, path))}/{keyword} {what}", new


def _rules(place: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], str, Any]]:
    if isinstance(place, list):
        for number, part in enumerate(place):
            yield from _rules(part, (*path, number))
    elif isinstance(place, dict):
        is_names = bool(path) and path[-1] in ("properties", "$defs")
        for keyword, value in place.items():
            if not is_names and keyword in _MUTABLE:
                yield path, keyword, value
            if is_names or keyword in (
                "properties",
                "$defs",
                "items",
                "additionalProperties",
                "propertyNames",
                "anyOf",
            ):
                yield from _rules(value, (*path, keyword))


_MUTABLE = {
    "type",
    "format",
    "pattern",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
} | {"minProperties", "maxProperties", "required", "properties", "default", "anyOf", "x-aifn-key", "$id"}


def _other_values(keyword: str, value: Any) -> Iterator[tuple[str, Any]]:
    match keyword, value:
        case ("minimum" | "maximum" | "minLength" | "maxLength" | "minItems" | "maxItems", int()):
            yield from (("rises", value + 1), ("falls", value - 1), ("goes", ...))
        case ("minProperties" | "maxProperties", int()):
            yield from (("rises", value + 1), ("falls", value - 1), ("goes", ...))
        case ("type", str()):
            yield from (("changes", "number"), ("goes", ...), ("may be null", [value, "null"]))
        case ("format" | "pattern" | "x-aifn-key" | "$id", str()):
            yield from (("changes", f"{value}x"), ("goes", ...))
        case ("enum", list()):
            yield from (("grows", [*value, "new"]), ("shrinks", value[1:]), ("goes", ...))
        case ("required", list()):
            yield from (("grows", [*value, "new"]), ("shrinks", value[1:]))
        case ("anyOf", list()):
            yield from (("grows", [*value, {"type": "boolean"}]), ("shrinks", value[:-1]))
        case ("properties", dict()):
            for name in value:
                yield f"without {name}", {key: part for key, part in value.items() if key != name}
        case ("default", _):
            yield from (("changes", "another"), ("goes", ...))
        case _:
            raise AssertionError(f"no mutation of {keyword}")


@EVERY_TOPIC
def test_every_mutation_of_every_rule_of_every_contract_is_noticed(topic: Topic) -> None:
    schema = schema_of(topic)
    made = list(mutations(schema))
    assert len(made) > 20
    missed = [what for what, new in made if not breaking_changes(schema, new)]
    assert missed == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(topic=st.sampled_from(TOPICS), data=st.data())
def test_where_nothing_breaks_each_side_reads_what_the_other_writes(topic: Topic, data: st.DataObject) -> None:
    old = schema_of(topic)
    new = copy.deepcopy(old)
    names = st.text("abcdefgh", min_size=3, max_size=8).filter(lambda name: name not in old["properties"])
    for name in data.draw(st.sets(names, min_size=1, max_size=3)):
        new["properties"][name] = data.draw(
            st.sampled_from([{"type": "string"}, {"type": "integer", "minimum": 0, "maximum": 9}, {"type": "boolean"}])
        )
    assert breaking_changes(old, new) == []
    jsonschema.validate(data.draw(instances(new)), old)
    jsonschema.validate(data.draw(instances(old)), new)
