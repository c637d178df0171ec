"""Says whether a published JSON Schema may be replaced by another one under the same version.

The bar is full and transitive: a reader of either schema must read every message of the other, and must take the same
meaning from it. Messages of all ages lie in one topic, and members of the network update months apart. So:

* A new optional field is fine: old messages lack it, old readers ignore it.
* Removing a field is breaking, an optional one too. An old reader would silently take its default for a fact, and once
  the name is free it could come back with another type, which no comparison with the last schema would notice. As no
  field ever leaves, comparing neighbours is enough to be transitive.
* Any other change of what is allowed is breaking in one of the two directions. Narrower (bounds, pattern, enum, null)
  and new readers refuse old messages; wider, and old readers refuse new ones, for they check what they read.
* A changed default is breaking: the same message would mean two things.
* Titles, descriptions and examples may change. A keyword this module does not know may not.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
_Seen = frozenset[tuple[int, int]]

_ANNOTATIONS = {"title", "description", "examples", "$comment", "deprecated", "readOnly", "writeOnly", "$defs"}
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LISTS = ("allOf", "oneOf", "prefixItems")
_IMPLIED = {"minLength": 0, "minItems": 0, "minProperties": 0, "uniqueItems": False}
_OLD_REFUSE = "readers of today refuse new messages"
_NEW_REFUSE = "new readers refuse messages of today"


class UnresolvableReference(ValueError):
    """A `$ref` that does not lead to a place inside its own schema."""


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Compare two JSON Schemas (2020-12) of one published version.

    Returns: one sentence for each reason why `new` may not replace `old`; empty if it may.
    Raises: UnresolvableReference.

    >>> name, age = {"type": "string"}, {"type": "integer"}
    >>> breaking_changes({"properties": {"name": name}}, {"properties": {"name": name, "age": age}})
    []
    >>> breaking_changes({"properties": {"name": name}}, {"properties": {"name": age}})
    ['name: the type was string and is integer']
    """
    return list(dict.fromkeys(_Comparison(old, new).compare(old, new, "", frozenset())))


class _Comparison:
    """Two whole schemas, for looking up references in."""

    def __init__(self, old: Schema, new: Schema) -> None:
        self._old = old
        self._new = new

    def compare(self, old_raw: Any, new_raw: Any, path: str, seen: _Seen) -> Iterator[str]:
        """Yield the reasons at and below one place; `seen` are the places above it, so that recursion ends."""
        here = (id(old_raw), id(new_raw))
        if here in seen:
            return
        seen |= {here}
        old, new = _resolved(old_raw, self._old), _resolved(new_raw, self._new)
        if not _same([old["default"]] if "default" in old else [], [new["default"]] if "default" in new else []):
            was, now = _shown(old, "default"), _shown(new, "default")
            yield f"{_at(path)}: the default was {was} and is {now}, so one message would mean two things"
        old_ways, new_ways = _alternatives(old), _alternatives(new)
        if "anyOf" not in old and "anyOf" not in new and len(old_ways) == len(new_ways) == 1:
            yield from self._compare_one(old_ways[0], new_ways[0], path, seen)
        else:
            yield from self._compare_alternatives(old_ways, new_ways, path, seen)

    def _compare_alternatives(
        self, old_ways: list[Schema], new_ways: list[Schema], path: str, seen: _Seen
    ) -> Iterator[str]:
        left = list(new_ways)
        for old_way in old_ways:
            old = _resolved(old_way, self._old)
            found: list[tuple[list[str], int]] = []
            for place, new_way in enumerate(left):
                if old.get("type") == _resolved(new_way, self._new).get("type"):
                    found.append((list(self.compare(old_way, new_way, path, seen)), place))
            if not found:
                yield f"{_at(path)}: may no longer be {_named(old)}: {_NEW_REFUSE}"
                continue
            reasons, place = min(found, key=lambda one: (len(one[0]), one[1]))
            left.pop(place)
            yield from reasons
        for new_way in left:
            yield f"{_at(path)}: may now also be {_named(_resolved(new_way, self._new))}: {_OLD_REFUSE}"

    def _compare_one(self, old: Schema, new: Schema, path: str, seen: _Seen) -> Iterator[str]:
        if old.get("type") != new.get("type"):
            yield f"{_at(path)}: the type was {old.get('type', 'any')} and is {new.get('type', 'any')}"
            return
        yield from _compare_values(old, new, path)
        yield from _compare_bounds(old, new, path)
        yield from self._compare_fields(old, new, path, seen)
        for keyword, suffix in (("additionalProperties", "{}"), ("items", "[]"), ("propertyNames", "{name}")):
            if keyword in old or keyword in new:
                yield from self.compare(old.get(keyword, True), new.get(keyword, True), path + suffix, seen)
        yield from self._compare_patterns(old, new, path, seen)
        for keyword in _LISTS:
            before, after = old.get(keyword, []), new.get(keyword, [])
            if len(before) != len(after):
                yield f"{_at(path)}: {keyword} had {len(before)} parts and has {len(after)}"
            for place, (one, other) in enumerate(zip(before, after, strict=False)):
                yield from self.compare(one, other, f"{path}.{keyword}[{place}]", seen)
        known = {"type", "enum", "const", "default", "properties", "required", "patternProperties", "$ref", "anyOf"}
        known |= {"additionalProperties", "items", "propertyNames", *_LOWER, *_UPPER, *_LISTS, *_ANNOTATIONS}
        for keyword in sorted((old.keys() | new.keys()) - known):
            if not _same(old.get(keyword, _IMPLIED.get(keyword)), new.get(keyword, _IMPLIED.get(keyword))):
                yield f"{_at(path)}: {keyword} was {_shown(old, keyword)} and is {_shown(new, keyword)}"

    def _compare_fields(self, old: Schema, new: Schema, path: str, seen: _Seen) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        must_before, must_after = set(old.get("required", ())), set(new.get("required", ()))
        is_open = old.get("additionalProperties", True) is True and not old.get("patternProperties")
        for name in sorted(before.keys() | after.keys() | must_before | must_after):
            place = f"{path}.{name}" if path else name
            if name in before and name not in after:
                kind = "required" if name in must_before else "optional"
                yield f"{place}: the {kind} field was removed; keep it, and say in its description that it is not used"
            elif name in must_before - must_after:
                yield f"{place}: was required and is optional: {_OLD_REFUSE} without it"
            elif name in must_after - must_before:
                what = "was optional and is required" if name in before else "a new field is required"
                yield f"{place}: {what}: {_NEW_REFUSE} without it"
            elif name in after and name not in before and not is_open:
                yield f"{place}: a new field where other fields were not free: {_OLD_REFUSE}"
            if name in after and (name in before or name in must_before):
                yield from self.compare(before.get(name, True), after[name], place, seen)

    def _compare_patterns(self, old: Schema, new: Schema, path: str, seen: _Seen) -> Iterator[str]:
        before, after = old.get("patternProperties", {}), new.get("patternProperties", {})
        for pattern in sorted(before.keys() | after.keys()):
            if pattern in before and pattern in after:
                yield from self.compare(before[pattern], after[pattern], f"{path}{{{pattern}}}", seen)
            else:
                yield f"{_at(path)}: the rule for names like {pattern} was {'added' if pattern in after else 'removed'}"


def _compare_values(old: Schema, new: Schema, path: str) -> Iterator[str]:
    before, after = _values(old), _values(new)
    if before is None and after is None:
        return
    if before is None or after is None:
        done, whom = ("removed", _OLD_REFUSE) if after is None else ("added", _NEW_REFUSE)
        yield f"{_at(path)}: a list of allowed values was {done}: {whom}"
        return
    for value in before:
        if not any(_same(value, other) for other in after):
            yield f"{_at(path)}: the value {value!r} was removed: {_NEW_REFUSE} with it"
    for value in after:
        if not any(_same(value, other) for other in before):
            yield f"{_at(path)}: the value {value!r} was added: {_OLD_REFUSE} with it"


def _compare_bounds(old: Schema, new: Schema, path: str) -> Iterator[str]:
    for keyword in (*_LOWER, *_UPPER):
        before, after = old.get(keyword, _IMPLIED.get(keyword)), new.get(keyword, _IMPLIED.get(keyword))
        if before == after:
            continue
        if before is None or after is None:
            wider = after is None
        else:
            wider = after < before if keyword in _LOWER else after > before
        what = f"wider: {_OLD_REFUSE}" if wider else f"narrower: {_NEW_REFUSE}"
        yield f"{_at(path)}: {keyword} was {_shown(old, keyword)} and is {_shown(new, keyword)}, which is {what}"


def _resolved(schema: Any, root: Schema) -> dict[str, Any]:
    """Follow `$ref`; rules that stand beside it are kept, and join those of its target under `allOf` if both speak."""
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    found = dict(schema)
    passed: set[str] = set()
    while "$ref" in found:
        ref = found.pop("$ref")
        if ref in passed:
            raise UnresolvableReference(f"{ref} leads to itself")
        passed.add(ref)
        target = _looked_up(ref, root)
        clash = {k: v for k, v in found.items() if k in target and k not in _ANNOTATIONS and not _same(v, target[k])}
        both = {"allOf": [*target.get("allOf", []), clash]} if clash.keys() - {"default"} else {}
        found = {**found, **target, **{k: v for k, v in found.items() if k not in clash or k == "default"}, **both}
    return found


def _looked_up(ref: str, root: Schema) -> dict[str, Any]:
    place: Any = root
    if ref != "#" and not ref.startswith("#/"):
        raise UnresolvableReference(f"{ref} is not inside this schema")
    for step in ref.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(place, Mapping) or key not in place:
            raise UnresolvableReference(f"{ref} leads nowhere")
        place = place[key]
    if isinstance(place, bool):
        return {} if place else {"not": {}}
    if not isinstance(place, Mapping):
        raise UnresolvableReference(f"{ref} is not a schema")
    return dict(place)


def _alternatives(schema: Schema) -> list[Schema]:
    """The ways a value may be, in one shape for `anyOf` and for a list of types. Usually one.

    What stands beside `anyOf` holds for every way: it is carried into each as it is.
    """
    ways = schema.get("anyOf")
    if ways is None:
        types = schema.get("type")
        shared = {k: v for k, v in schema.items() if k != "default"}
        if not isinstance(types, list):
            return [shared]
        # Rules beside a list of types are about texts, numbers and so on; only a list of values is about null too.
        for_null = {k: v for k, v in shared.items() if k in ("enum", "const")}
        return [{**(for_null if one == "null" else shared), "type": one} for one in types]
    beside = {k: v for k, v in schema.items() if k not in {"anyOf", "default", *_ANNOTATIONS}}
    return [{"allOf": [way, beside]} if beside else way for way in ways]


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return None if values is None else list(values)


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON is: `true` is not 1, at any depth."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _shown(schema: Schema, keyword: str) -> str:
    return repr(schema[keyword]) if keyword in schema else "absent"


def _named(schema: Schema) -> str:
    return str(schema.get("type") or schema.get("title") or "something else")


def _at(path: str) -> str:
    return path or "the value"
