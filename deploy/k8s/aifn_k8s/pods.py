"""The pods an overlay leads to: of workloads as they stand there, and of operators as their resources shape them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = Mapping[str, Any]
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob")
SERVICE_COMPONENTS = {"api", "worker", "migrate", "gate"}
KNOWN_AT_RUN_TIME = "known-at-run-time"
BY_HAND = {"federation-directory", "gateway-tls"}
"""Made at each site and renewed there: the signed directory, which is public, and the gateway's certificate."""


@dataclass(frozen=True)
class Pod:
    """One kind of pod: what it is made from, how it is labelled, what it refers to."""

    title: str
    kind: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    made_by_operator: bool = False
    service_name: str = ""
    services: frozenset[str] = frozenset()
    budgets: tuple[str, ...] = ()
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    known_secrets: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """Its workload's name alone."""
        return self.title.partition("/")[2]

    @property
    def ends(self) -> bool:
        """Whether it does one thing and ends."""
        return self.kind in ("Job", "CronJob")

    @property
    def is_ours(self) -> bool:
        """Whether it runs one of our services."""
        return self.labels.get("app.kubernetes.io/component") in SERVICE_COMPONENTS

    @property
    def service(self) -> str:
        """Which of our services it runs."""
        return self.labels.get("app.kubernetes.io/name", "")

    @property
    def security(self) -> Mapping[str, Any]:
        """What holds for all its containers."""
        found: Mapping[str, Any] = self.spec.get("securityContext", {})
        return found

    @property
    def containers(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Names and specifications, those that run first included."""
        both = [*self.spec.get("initContainers", []), *self.spec.get("containers", [])]
        return [(str(one["name"]), one) for one in both]

    def environment(self, container: Mapping[str, Any]) -> dict[str, str]:
        """The variables it is given; a value that is known at run time only has a stand-in."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            found |= self.config_maps.get(source.get("configMapRef", {}).get("name", ""), {})
        return found | {one["name"]: str(one.get("value", KNOWN_AT_RUN_TIME)) for one in container.get("env", [])}

    @property
    def missing_config_maps(self) -> set[str]:
        """ConfigMaps it refers to and nobody makes."""
        return (
            {name for kind, name in _references(self.spec) if kind == "configMap"} - self.config_maps.keys() - BY_HAND
        )

    @property
    def missing_secrets(self) -> set[str]:
        """Secrets it refers to and nobody makes."""
        return {name for kind, name in _references(self.spec) if kind == "secret"} - self.known_secrets


def pods(objects: Sequence[Object]) -> list[Pod]:
    """Every kind of pod of an overlay."""
    config_maps = {_name(one): one.get("data") or {} for one in objects if one["kind"] == "ConfigMap"}
    services = frozenset(_name(one) for one in objects if one["kind"] == "Service")
    budgets = [one for one in objects if one["kind"] == "PodDisruptionBudget"]
    secrets = frozenset(_secrets(objects))
    found = []
    for one in objects:
        if one["kind"] in WORKLOADS:
            template = _template(one)
            labels = template["metadata"].get("labels", {})
            covering = tuple(_name(b) for b in budgets if matches(b["spec"]["selector"], labels))
            service_name = str(one["spec"].get("serviceName", ""))
            title = f"{one['kind']}/{_name(one)}"
            found.append(
                Pod(
                    title,
                    one["kind"],
                    labels,
                    template["spec"],
                    False,
                    service_name,
                    services,
                    covering,
                    config_maps,
                    secrets,
                )
            )
    return [*found, *_of_operators(objects)]


def _template(workload: Object) -> Mapping[str, Any]:
    spec = workload["spec"]["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else workload["spec"]
    template: Mapping[str, Any] = spec["template"]
    return template


def _of_operators(objects: Sequence[Object]) -> Iterator[Pod]:
    """Pods as Strimzi 1.2 and CloudNativePG 1.30 label and shape them."""
    for one in objects:
        kind, name, spec = one["kind"], _name(one), one.get("spec", {})
        title = f"{kind}/{name}"
        if kind == "KafkaNodePool":
            cluster = one["metadata"]["labels"]["strimzi.io/cluster"]
            labels = {
                "strimzi.io/cluster": cluster,
                "strimzi.io/name": f"{cluster}-kafka",
                "strimzi.io/pool-name": name,
            }
            yield _shaped(title, labels, spec, {"kafkaContainer": spec})
        elif kind == "Kafka" and "entityOperator" in spec:
            operator = spec["entityOperator"]
            labels = {"strimzi.io/cluster": name, "strimzi.io/name": f"{name}-entity-operator"}
            parts = {
                f"{part}Container": operator[part] for part in ("topicOperator", "userOperator") if part in operator
            }
            yield _shaped(f"{title}-entity-operator", labels, operator, parts)
        elif kind == "KafkaMirrorMaker2":
            own = spec.get("template", {}).get("pod", {}).get("metadata", {}).get("labels", {})
            labels = {"strimzi.io/cluster": name, "strimzi.io/name": f"{name}-mirrormaker2", **own}
            yield _shaped(title, labels, spec, {"connectContainer": spec})
        elif kind == "Cluster":
            # This operator sets the restricted profile by itself; what it is told are the bounds.
            security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
            restricted = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            container = {
                "name": "postgres",
                "image": spec.get("imageName", ""),
                "resources": spec.get("resources", {}),
                "securityContext": spec.get("securityContext", restricted),
            }
            pod_spec = {"securityContext": spec.get("podSecurityContext", security), "containers": [container]}
            yield Pod(title, kind, {"cnpg.io/cluster": name}, pod_spec, made_by_operator=True)


def _shaped(title: str, labels: Mapping[str, str], spec: Mapping[str, Any], parts: Mapping[str, Any]) -> Pod:
    template = spec.get("template", {})
    containers = [
        {
            "name": name,
            "image": part.get("image", ""),
            "resources": part.get("resources", {}),
            "securityContext": template.get(name, {}).get("securityContext", {}),
        }
        for name, part in parts.items()
    ]
    pod_spec = {"securityContext": template.get("pod", {}).get("securityContext", {}), "containers": containers}
    return Pod(title, title.partition("/")[0], labels, pod_spec, made_by_operator=True)


def matches(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels; an empty one takes everything, none takes nothing."""
    if selector is None:
        return False
    for name, value in (selector.get("matchLabels") or {}).items():
        if labels.get(name) != value:
            return False
    return all(_expression(one, labels) for one in selector.get("matchExpressions") or [])


def _expression(one: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = one["key"], one.get("values", [])
    verdicts = {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }
    return verdicts[one["operator"]]


def _secrets(objects: Iterable[Object]) -> Iterator[str]:
    """Secrets that will be there: of this overlay, of the operators, of the site's vault."""
    for one in objects:
        kind, name = one["kind"], _name(one)
        if kind in ("Secret", "KafkaUser"):
            yield name
        elif kind == "ExternalSecret":
            yield str(one["spec"].get("target", {}).get("name", name))
        elif kind == "DatabaseRole" and one["spec"].get("clientCertificate", {}).get("enabled"):
            yield f"{name}-client-cert"
        elif kind == "Cluster":
            yield f"{name}-ca"
        elif kind == "Kafka":
            yield f"{name}-cluster-ca-cert"


def _references(node: Any) -> Iterator[tuple[str, str]]:
    """Every (kind, name) of a ConfigMap or Secret that a pod names."""
    if isinstance(node, list):
        for one in node:
            yield from _references(one)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("configMap", "configMapRef", "configMapKeyRef") and isinstance(value, dict):
                yield "configMap", str(value["name"])
            elif key in ("secret", "secretRef", "secretKeyRef") and isinstance(value, dict):
                yield "secret", str(value.get("name") or value.get("secretName"))
            else:
                yield from _references(value)


def _name(one: Object) -> str:
    return str(one["metadata"]["name"])
