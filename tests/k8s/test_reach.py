"""Who may speak to whom, as network policies say it: the rules of Kubernetes, and what we want of our own."""

import ipaddress
from typing import Any

from aifn_k8s.reach import allowed, table
from aifn_k8s.render import Rendered
from hypothesis import given
from hypothesis import strategies as st

from tests.support.manifests import TREE

Object = dict[str, Any]


def _workload(name: str) -> Object:
    template = {"metadata": {"labels": {"app": name}}, "spec": {"containers": []}}
    return {"kind": "Deployment", "metadata": {"name": name}, "spec": {"template": template}}


def _policy(name: str, app: str | None, **spec: object) -> Object:
    selector = {"matchLabels": {"app": app}} if app else {}
    return {"kind": "NetworkPolicy", "metadata": {"name": name}, "spec": {"podSelector": selector, **spec}}


def _to(app: str, port: int) -> Object:
    return {"to": [{"podSelector": {"matchLabels": {"app": app}}}], "ports": [{"protocol": "TCP", "port": port}]}


def _from(app: str, port: int) -> Object:
    return {"from": [{"podSelector": {"matchLabels": {"app": app}}}], "ports": [{"protocol": "TCP", "port": port}]}


DENY = _policy("deny", None, policyTypes=["Ingress", "Egress"])
PAIR = [_workload("a"), _workload("b")]


def _between(objects: list[Object], caller: str, called: str) -> set[tuple[str, int]]:
    return {port for one, other, port in allowed(objects) if (one, other) == (caller, called)}


def test_without_a_policy_everybody_may_speak_to_everybody() -> None:
    assert ("a", "(internet)", ("TCP", 65_000)) in allowed(PAIR)
    assert _between(PAIR, "a", "b") == {("TCP", 65_000), ("UDP", 65_000)}


def test_a_default_denial_leaves_nothing() -> None:
    assert allowed([*PAIR, DENY]) == set()


def test_both_sides_must_allow_a_connection() -> None:
    leave = _policy("leave", "a", policyTypes=["Egress"], egress=[_to("b", 80)])
    enter = _policy("enter", "b", policyTypes=["Ingress"], ingress=[_from("a", 80)])
    assert _between([*PAIR, DENY, leave], "a", "b") == set()
    assert _between([*PAIR, DENY, enter], "a", "b") == set()
    assert _between([*PAIR, DENY, leave, enter], "a", "b") == {("TCP", 80)}
    assert _between([*PAIR, DENY, leave, enter], "b", "a") == set()


@given(st.permutations([_to("b", 80), _to("b", 81), _to("a", 82)]), st.integers(0, 3))
def test_policies_only_add_up_whatever_their_order_and_however_they_are_cut(rules: list[Object], cut: int) -> None:
    enter = _policy("enter", None, policyTypes=["Ingress"], ingress=[{}])
    one = [_policy("all", "a", policyTypes=["Egress"], egress=rules)]
    two = [
        _policy("first", "a", policyTypes=["Egress"], egress=rules[:cut]),
        _policy("second", "a", policyTypes=["Egress"], egress=rules[cut:]),
    ]
    assert allowed([*PAIR, DENY, enter, *one]) == allowed([*PAIR, DENY, enter, *two])


def test_a_range_of_addresses_takes_outsiders_but_for_its_exceptions_and_no_pod() -> None:
    block = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}
    leave = _policy("leave", "a", policyTypes=["Egress"], egress=[{"to": [{"ipBlock": block}]}])
    called = {other for one, other, _ in allowed([*PAIR, DENY, leave]) if one == "a"}
    assert called == {"(internet)", "(cluster API)", "(object store)"}
    assert ipaddress.ip_address("10.1.2.3") in ipaddress.ip_network("10.0.0.0/8")


def test_a_selector_of_namespaces_takes_theirs_and_not_ours() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"aifn.eu/gateway": "true"}}}
    enter = _policy("enter", "a", policyTypes=["Ingress"], ingress=[{"from": [peer]}])
    assert {one for one, other, _ in allowed([*PAIR, DENY, enter]) if other == "a"} == {"(gateway)"}


def test_without_types_a_policy_is_about_coming_in_and_about_leaving_if_it_says_so() -> None:
    silent = _policy("silent", "a")
    assert _between([*PAIR, silent], "b", "a") == set()
    assert _between([*PAIR, silent], "a", "b") != set()
    assert _between([*PAIR, _policy("quiet", "a", egress=[])], "a", "b") == set()


def test_the_table_names_callers_once_for_ports_they_share() -> None:
    rows = table({("a", "b", ("TCP", 80)), ("a", "b", ("UDP", 53)), ("c", "b", ("TCP", 81))})
    assert rows.splitlines()[2:] == ["| b | 80, 53/UDP | a |", "| b | 81 | c |"]


def test_at_a_factory_only_the_gate_and_the_mirrors_leave(rendered: dict[str, Rendered]) -> None:
    connections = allowed(rendered["lumi-aif"].objects)
    leaving = {one for one, other, _ in connections if other == "(internet)"}
    assert leaving == {"fedgate", "mirror-in", "mirror-out-a", "mirror-out-b"}


def test_no_service_speaks_to_another_and_no_api_to_the_broker(rendered: dict[str, Rendered]) -> None:
    connections = allowed(rendered["lumi-aif"].objects)
    roles = ("-api", "-worker", "-migrate")
    services = {name for pair in connections for name in pair[:2] if name.endswith(roles) or name == "fedgate"}
    assert not {(one, other) for one, other, _ in connections if one in services and other in services}
    assert not {one for one, other, _ in connections if other == "brokers" and one.endswith(("-api", "-migrate"))}


def test_strangers_in_the_cluster_reach_nobody(rendered: dict[str, Rendered]) -> None:
    for name in ("lumi-aif", "template-antenna", "relay-a"):
        strangers = {"(any other pod of the cluster)", "(internet)", "(the site's own network)"}
        assert not {other for one, other, _ in allowed(rendered[name].objects) if one in strangers}


def test_the_snapshot_has_the_table_of_every_sort_of_overlay(rendered: dict[str, Rendered]) -> None:
    kept = (TREE / "policy/who-may-speak-to-whom.md").read_text(encoding="utf-8")
    for name in ("lumi-aif", "template-antenna", "relay-a"):
        assert table(allowed(rendered[name].objects)) in kept


def test_a_connection_more_or_less_changes_the_table(rendered: dict[str, Rendered]) -> None:
    objects = rendered["lumi-aif"].objects
    before = table(allowed(objects))
    fewer = [one for one in objects if one["metadata"]["name"] != "to-the-broker"]
    assert table(allowed(fewer)) != before
