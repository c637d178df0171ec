"""What the API server would refuse is refused here, before it gets that far."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aifn_k8s import schemas
from aifn_k8s.render import Rendered
from aifn_k8s.validation import problems
from aifn_local.errors import StackError

from tests.support.manifests import TREE

Object = dict[str, Any]
BUILT_IN = {"", "apps", "batch", "policy", "autoscaling", "networking.k8s.io"}


def test_what_is_rendered_is_what_the_api_server_takes(rendered: dict[str, Rendered], validator: Path) -> None:
    assert problems(list(rendered.values()), validator, TREE / "schemas") == []


def _field(*place: str) -> Callable[[Object], None]:
    def misspell(document: Object) -> None:
        node = document
        for name in place:
            node = node[int(name)] if isinstance(node, list) else node[name]
        node["misspelt"] = 1

    return misspell


def _without(*place: str) -> Callable[[Object], None]:
    def remove(document: Object) -> None:
        node = document
        for name in place[:-1]:
            node = node[name]
        del node[place[-1]]

    return remove


def _set(value: object, *place: str) -> Callable[[Object], None]:
    def change(document: Object) -> None:
        node = document
        for name in place[:-1]:
            node = node[name]
        node[place[-1]] = value

    return change


WRONG: dict[str, tuple[str, str, Callable[[Object], None], str]] = {
    "an unknown field of a container": (
        "Deployment",
        "accounting-api",
        _field("spec", "template", "spec", "containers", "0"),
        "unknown field",
    ),
    "an unknown field of a workload": ("StatefulSet", "accounting-worker", _field("spec"), "unknown field"),
    "a missing field": ("Deployment", "accounting-api", _without("spec", "selector"), "selector"),
    "a number that is a word": ("Deployment", "accounting-api", _set("two", "spec", "replicas"), "replicas"),
    "an unknown field of a topic": ("KafkaTopic", "aifn-job-placed-v1", _field("spec"), "unknown field"),
    "an operation that Kafka does not know": (
        "KafkaUser",
        "accounting",
        _set([{"resource": {"type": "topic", "name": "x"}, "operations": ["Look"]}], "spec", "authorization", "acls"),
        "Look",
    ),
    "a listener of an unknown type": (
        "Kafka",
        "kafka",
        _set([{"name": "x", "port": 9093, "type": "carrier-pigeon", "tls": True}], "spec", "kafka", "listeners"),
        "carrier-pigeon",
    ),
    "an unknown field of a mirror": ("KafkaMirrorMaker2", "mirror-in", _field("spec", "target"), "unknown field"),
    "an unknown field of a database": ("Cluster", "postgres", _field("spec", "postgresql"), "unknown field"),
    "a rule of a database, in words of its own": (
        "Cluster",
        "postgres",
        _set({"method": "any", "number": 0}, "spec", "postgresql", "synchronous"),
        "greater than zero",
    ),
    "a role with a certificate that may not log in": (
        "DatabaseRole",
        "accounting",
        _set(False, "spec", "login"),
        "login",
    ),
    "an unknown field of a scaler": ("ScaledObject", "accounting-worker", _field("spec"), "unknown field"),
    "an unknown field of a route": ("HTTPRoute", "accounting", _field("spec", "rules", "0"), "unknown field"),
    "an unknown field of a secret's source": ("ExternalSecret", "accounting-own", _field("spec"), "unknown field"),
    "an unknown kind": ("Deployment", "accounting-api", _set("Deploymint", "kind"), "Deploymint"),
    "an unknown group": ("KafkaTopic", "aifn-job-placed-v1", _set("kafka.strimzi.io/v9", "apiVersion"), "v9"),
}


def test_one_thing_wrong_in_a_factory_is_found_and_named(rendered: dict[str, Rendered], validator: Path) -> None:
    # One run for all: each wrong object stands in an overlay of its own.
    factory = rendered["lumi-aif"]
    overlays = []
    for what, (kind, name, spoil, _) in WRONG.items():
        found = [one for one in factory.objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{kind}/{name} is there {len(found)} times"
        document = copy.deepcopy(found[0])
        spoil(document)
        overlays.append(Rendered(what, (document,)))
    lines = problems(overlays, validator, TREE / "schemas")
    for what, (_, name, _, word) in WRONG.items():
        mine = [line for line in lines if line.startswith(f"{what}: ")]
        assert any(word in line and name in line for line in mine), f"{what}: {mine}"


def test_every_kind_that_is_rendered_has_a_schema_here_or_in_kubernetes(rendered: dict[str, Rendered]) -> None:
    kept = schemas.kinds(TREE / "schemas")
    for one in rendered.values():
        for document in one.objects:
            group = document["apiVersion"].rpartition("/")[0]
            assert group in BUILT_IN or (group, document["kind"]) in kept, document["kind"]


def test_a_schema_that_is_cut_down_keeps_a_field_called_description() -> None:
    node = {"description": "for people", "properties": {"description": {"type": "string", "description": "for people"}}}
    crd = {
        "apiVersion": "v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "x"},
        "spec": {
            "group": "g",
            "names": {"kind": "X"},
            "scope": "Namespaced",
            "versions": [{"name": "v1", "served": True, "schema": node}, {"name": "v0", "served": False}],
        },
    }
    versions = schemas.slim(crd)["spec"]["versions"]
    assert versions == [{"name": "v1", "served": True, "schema": {"properties": {"description": {"type": "string"}}}}]


def test_nothing_to_validate_is_no_problem(tmp_path: Path) -> None:
    assert problems([], tmp_path / "no-such-program", tmp_path) == []


@pytest.mark.parametrize("answer", ["", "no verdict at all"])
def test_a_validator_that_says_nothing_is_not_taken_for_a_yes(tmp_path: Path, answer: str) -> None:
    mute = tmp_path / "mute"
    mute.write_text(f"#!/bin/sh\necho '{answer}'\n")
    mute.chmod(0o755)
    with pytest.raises(StackError, match="no verdict"):
        problems([Rendered("one", ({"kind": "X", "metadata": {"name": "x"}},))], mute, tmp_path)


def test_a_validator_that_overlooks_an_object_is_not_taken_for_a_yes(tmp_path: Path) -> None:
    hasty = tmp_path / "hasty"
    hasty.write_text("#!/bin/sh\necho '{}'\n")
    hasty.chmod(0o755)
    with pytest.raises(StackError, match="looked at 0 of the 1 objects of one"):
        problems([Rendered("one", ({"kind": "X", "metadata": {"name": "x"}},))], hasty, tmp_path)
