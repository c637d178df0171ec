"""Who may speak to whom, computed from the network policies as they are rendered, and written down as a table.

A connection is allowed when nothing forbids the caller to leave and nothing forbids the called to be reached: a pod
that some policy selects for a direction may do in that direction what one of its policies allows, and nothing else; a
pod that none selects may do anything. (Kubernetes, "Network Policies".)
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from aifn_k8s.pods import Object, matches, pods

ANY_OTHER = 65_000
"""Stands for every port that nobody names."""


@dataclass(frozen=True)
class Place:
    """Somebody who may call or be called: a pod of ours, a pod elsewhere in the cluster, or an address outside."""

    name: str
    labels: Mapping[str, str]
    namespace: Mapping[str, str] | None = None
    address: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether our policies select it."""
        return self.namespace is None and not self.address


def _elsewhere(name: str, namespace: Mapping[str, str], pod: Mapping[str, str] | None = None) -> Place:
    return Place(name, pod or {}, namespace)


OTHERS = (
    _elsewhere("(any other pod of the cluster)", {"kubernetes.io/metadata.name": "somebody-elses"}),
    _elsewhere("(gateway)", {"kubernetes.io/metadata.name": "gateway", "aifn.eu/gateway": "true"}),
    _elsewhere("(identity provider)", {"kubernetes.io/metadata.name": "identity", "aifn.eu/identity": "true"}),
    _elsewhere("(monitoring)", {"kubernetes.io/metadata.name": "monitoring"}),
    _elsewhere("(cluster DNS)", {"kubernetes.io/metadata.name": "kube-system"}, {"k8s-app": "kube-dns"}),
    _elsewhere("(Strimzi)", {"kubernetes.io/metadata.name": "strimzi"}),
    _elsewhere("(KEDA)", {"kubernetes.io/metadata.name": "keda"}),
    _elsewhere("(CloudNativePG)", {"kubernetes.io/metadata.name": "cnpg-system"}),
    Place("(cluster API)", {}, address="192.0.2.1"),
    Place("(object store)", {}, address="192.0.2.2"),
    Place("(internet)", {}, address="198.51.100.7"),
    Place("(the site's own network)", {}, address="10.1.2.3"),
)
"""Addresses are those that documents may use (RFC 5737), as the overlays have them."""

Port = tuple[str, int]


def places(objects: Sequence[Object]) -> list[Place]:
    """Our pods, machines' agents taken as one, and everybody outside who matters."""
    ours: dict[str, Place] = {}
    for pod in pods(objects):
        machine = pod.labels.get("aifn.eu/machine")
        name = pod.name.replace(f"-{machine}", "") if machine else pod.name
        ours.setdefault(name, Place(name, {k: v for k, v in pod.labels.items() if k != "aifn.eu/machine"}))
    return [*ours.values(), *OTHERS]


def allowed(objects: Sequence[Object]) -> set[tuple[str, str, Port]]:
    """Every (caller, called, port) that the policies let through; pairs of two outsiders are none of our business."""
    policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
    everybody = places(objects)
    ports = sorted({*_ports(policies), ("TCP", ANY_OTHER), ("UDP", ANY_OTHER)})
    found = set()
    for caller in everybody:
        for called in everybody:
            if caller == called and not caller.is_ours:
                continue
            if not (caller.is_ours or called.is_ours):
                continue
            leaves = _open(policies, caller, called, "Egress", "egress", "to", ports)
            enters = _open(policies, called, caller, "Ingress", "ingress", "from", ports)
            found |= {(caller.name, called.name, port) for port in leaves & enters}
    return found


def _open(
    policies: Iterable[Mapping[str, Any]], own: Place, peer: Place, kind: str, rules: str, peers: str, ports: list[Port]
) -> set[Port]:
    """Ports on which `own` may speak with `peer` in one direction."""
    if not own.is_ours:
        return set(ports)
    selecting = [one for one in policies if kind in _kinds(one) and matches(one["podSelector"], own.labels)]
    if not selecting:
        return set(ports)
    found: set[Port] = set()
    for policy in selecting:
        for rule in policy.get(rules) or []:
            if not rule.get(peers) or any(_is_peer(one, peer) for one in rule[peers]):
                found |= _listed(rule, ports)
    return found


def _kinds(policy: Mapping[str, Any]) -> Sequence[str]:
    default = ["Ingress", *(["Egress"] if "egress" in policy else [])]
    kinds: Sequence[str] = policy.get("policyTypes") or default
    return kinds


def _is_peer(one: Mapping[str, Any], peer: Place) -> bool:
    if "ipBlock" in one:
        block = one["ipBlock"]
        if not peer.address:
            return False
        inside = [ip_address(peer.address) in ip_network(cidr) for cidr in [block["cidr"], *block.get("except", [])]]
        return inside[0] and not any(inside[1:])
    if peer.address:
        return False
    if "namespaceSelector" in one:
        # Our own namespace carries none of the labels that others are known by.
        if not matches(one["namespaceSelector"], peer.namespace or {}):
            return False
    elif peer.namespace is not None:
        return False
    return "podSelector" not in one or matches(one["podSelector"], peer.labels)


def _listed(rule: Mapping[str, Any], ports: list[Port]) -> set[Port]:
    if not rule.get("ports"):
        return set(ports)
    found = set()
    for one in rule["ports"]:
        protocol, first = one.get("protocol", "TCP"), one.get("port")
        last = one.get("endPort", first)
        found |= {port for port in ports if port[0] == protocol and (first is None or first <= port[1] <= last)}
    return found


def _ports(policies: Iterable[Mapping[str, Any]]) -> set[Port]:
    rules = [rule for one in policies for rule in [*(one.get("ingress") or []), *(one.get("egress") or [])]]
    listed = [port for rule in rules for port in rule.get("ports") or []]
    return {(str(one.get("protocol", "TCP")), int(one["port"])) for one in listed if "port" in one}


def table(connections: Iterable[tuple[str, str, Port]]) -> str:
    """The same as a Markdown table: one row for each place that is called and set of ports."""
    callers: dict[tuple[str, Port], set[str]] = {}
    for caller, called, port in connections:
        callers.setdefault((called, port), set()).add(caller)
    rows: dict[tuple[str, tuple[str, ...]], list[Port]] = {}
    for (called, port), who in callers.items():
        rows.setdefault((called, tuple(sorted(who))), []).append(port)
    lines = ["| Called | On | By |", "| --- | --- | --- |"]
    for (called, by), ports in sorted(rows.items()):
        words = ", ".join(_port(port) for port in sorted(ports))
        lines.append(f"| {called} | {words} | {', '.join(by)} |")
    return "\n".join(lines) + "\n"


def _port(port: Port) -> str:
    protocol, number = port
    if number == ANY_OTHER:
        return f"any other {protocol}"
    return str(number) if protocol == "TCP" else f"{number}/{protocol}"


HEAD = """# Who may speak to whom

Computed from the network policies as they are rendered, and held against them by `make k8s-check`; what changed on
purpose is written here by `aifn k8s check --accept`. Agents of several machines are one row. In brackets: pods of other
namespaces, addresses outside. Connections that no row names are not let through.
"""


def document(tables: Mapping[str, Sequence[str]]) -> str:
    """policy/who-may-speak-to-whom.md: each table once, below the names of the overlays that have it."""
    parts = [HEAD]
    for text, names in sorted(tables.items(), key=lambda item: sorted(item[1])):
        parts.append(f"\n## {', '.join(sorted(names))}\n\n{text}")
    return "".join(parts)
