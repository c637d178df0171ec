"""What we ask of every pod: each rule is broken once, and says so."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from aifn_k8s import policy
from aifn_k8s.pods import pods
from aifn_k8s.policy import POD_RULES, Waiver, breaches
from aifn_k8s.render import Rendered

from tests.support.manifests import TREE

Object = dict[str, Any]


def _pod(document: Object) -> Object:
    spec: Object = document["spec"]["template"]["spec"]
    return spec


def _container(document: Object) -> Object:
    found: Object = _pod(document)["containers"][0]
    return found


def _drop(get: Callable[[Object], Object], key: str) -> Callable[[Object], None]:
    def spoil(document: Object) -> None:
        del get(document)[key]

    return spoil


def _put(get: Callable[[Object], Object], **values: object) -> Callable[[Object], None]:
    def spoil(document: Object) -> None:
        get(document).update(values)

    return spoil


def _security(document: Object) -> Object:
    found: Object = _pod(document)["securityContext"]
    return found


def _own(document: Object) -> Object:
    found: Object = _container(document)["securityContext"]
    return found


def _resources(document: Object) -> Object:
    found: Object = _container(document)["resources"]
    return found


BROKEN: list[tuple[str, str, Callable[[Object], None], str]] = [
    ("non-root", "Deployment/accounting-api", _put(_security, runAsNonRoot=False), "may run as root"),
    ("non-root", "Deployment/accounting-api", _put(_security, runAsUser=0), "runs as user 0"),
    ("non-root", "Deployment/accounting-api", _put(_security, runAsUser=1000), "made for 10001"),
    ("non-root", "Deployment/accounting-api", _drop(_security, "seccompProfile"), "no seccompProfile"),
    ("no-privilege", "Deployment/accounting-api", _put(_pod, hostNetwork=True), "hostNetwork"),
    ("no-privilege", "Deployment/accounting-api", _put(_own, privileged=True), "is privileged"),
    ("no-privilege", "Deployment/accounting-api", _put(_own, allowPrivilegeEscalation=True), "gain privileges"),
    ("no-privilege", "Deployment/accounting-api", _drop(_own, "readOnlyRootFilesystem"), "write to its root"),
    ("no-privilege", "Deployment/accounting-api", _put(_own, capabilities={"drop": ["ALL"], "add": ["X"]}), "capab"),
    ("no-privilege", "Deployment/accounting-api", _put(_container, ports=[{"hostPort": 80}]), "port of its host"),
    ("no-privilege", "Deployment/accounting-api", _put(_pod, volumes=[{"name": "v", "hostPath": {}}]), "hostPath"),
    ("no-token", "Deployment/accounting-api", _drop(_pod, "automountServiceAccountToken"), "token"),
    ("no-token", "Deployment/accounting-api", _drop(_pod, "serviceAccountName"), "default account"),
    ("bounds", "Deployment/accounting-api", _drop(_resources, "limits"), "no memory limit"),
    ("bounds", "Deployment/accounting-api", _put(_resources, requests={"cpu": 1, "memory": "1Mi"}), "less memory"),
    ("bounds", "Deployment/accounting-api", _put(_resources, requests={"memory": "256Mi"}), "no CPU"),
    ("bounds", "Deployment/accounting-api", _put(_resources, limits={"memory": "256Mi", "cpu": 1}), "CPU limit"),
    ("bounds", "Deployment/accounting-api", _put(_pod, volumes=[{"name": "v", "emptyDir": {}}]), "without bound"),
    ("probes", "Deployment/accounting-api", _drop(_container, "startupProbe"), "no startupProbe"),
    ("probes", "Deployment/accounting-api", _drop(_container, "livenessProbe"), "no livenessProbe"),
    (
        "probes",
        "StatefulSet/accounting-worker",
        _put(_container, livenessProbe={"httpGet": {"path": "/readyz", "port": "http"}}),
        "one question",
    ),
    ("pinned-image", "Deployment/accounting-api", _put(_container, image="aifn-accounting"), "whatever that is"),
    ("pinned-image", "Deployment/accounting-api", _put(_container, image="h:80/aifn-accounting:latest"), "whatever"),
    ("drains", "StatefulSet/accounting-worker", _put(_pod, terminationGracePeriodSeconds=50), "is killed after"),
    ("drains", "Deployment/accounting-api", _put(_pod, terminationGracePeriodSeconds=55), "may take 55 s"),
    ("static-membership", "StatefulSet/accounting-worker", _put(_container, env=[]), "new member"),
    (
        "static-membership",
        "StatefulSet/accounting-worker",
        lambda document: document["spec"].update(serviceName="nobody"),
        "no service nobody",
    ),
    (
        "disruption-budget",
        "PodDisruptionBudget/accounting-worker",
        lambda document: document["spec"].update(selector={"matchLabels": {"app": "another"}}),
        "no PodDisruptionBudget",
    ),
    (
        "references",
        "DatabaseRole/accounting",
        lambda document: document["spec"].pop("clientCertificate"),
        "Secret accounting-client-cert is made by nobody",
    ),
]


def _spoilt(rendered: Rendered, title: str, spoil: Callable[[Object], None]) -> Rendered:
    objects = [copy.deepcopy(one) for one in rendered.objects]
    found = [one for one in objects if f"{one['kind']}/{one['metadata']['name']}" == title]
    assert len(found) == 1, title
    spoil(found[0])
    return Rendered(rendered.name, tuple(objects))


@pytest.mark.parametrize(("rule", "title", "spoil", "word"), BROKEN, ids=[f"{r}: {w}" for r, _, _, w in BROKEN])
def test_a_breach_of_a_rule_is_found_and_named(
    rendered: dict[str, Rendered], rule: str, title: str, spoil: Callable[[Object], None], word: str
) -> None:
    lines = breaches([_spoilt(rendered["lumi-aif"], title, spoil)], [])
    assert any(f"({rule})" in line and word in line for line in lines), lines


def test_every_rule_is_broken_by_some_test() -> None:
    assert {rule for rule, *_ in BROKEN} == set(POD_RULES)


def test_no_overlay_breaks_a_rule_that_is_not_waived(rendered: dict[str, Rendered]) -> None:
    assert breaches(rendered.values(), policy.waivers(TREE / "policy/waivers.toml")) == []


@pytest.mark.parametrize(
    "value",
    [
        {"AIFN_DATABASE_URL": "postgresql://accounting:hunter2@db/accounting"},
        {"AIFN_PSEUDONYM_KEY": "abcdef"},
        {"note": "-----BEGIN PRIVATE KEY-----"},
    ],
)
def test_a_secret_in_clear_is_found_wherever_it_stands(rendered: dict[str, Rendered], value: dict[str, str]) -> None:
    factory = rendered["lumi-aif"]
    spoilt = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "careless"}, "data": value}
    lines = breaches([Rendered("x", (*factory.objects, spoilt))], [])
    assert [line for line in lines if "ConfigMap/careless" in line and "no-secret-in-clear" in line]


def test_a_secret_in_the_environment_of_a_container_is_found(rendered: dict[str, Rendered]) -> None:
    careless = _put(_container, env=[{"name": "AIFN_PSEUDONYM_KEY", "value": "abcdef"}])
    lines = breaches([_spoilt(rendered["lumi-aif"], "Deployment/accounting-api", careless)], [])
    assert any("AIFN_PSEUDONYM_KEY may hold a secret" in line for line in lines)


def test_a_secret_that_lies_in_the_repository_is_found() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"x": "eA=="}}
    assert breaches([Rendered("x", (secret,))], []) == [
        "x: Secret/s: a Secret lies in the repository (no-secret-in-clear)"
    ]


def test_a_namespace_that_lets_everything_in_is_found(rendered: dict[str, Rendered]) -> None:
    def relax(document: Object) -> None:
        document["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "baseline"

    lines = breaches([_spoilt(rendered["dev"], "Namespace/aifn-dev", relax)], [])
    assert any("its pods may be baseline" in line for line in lines)


@pytest.mark.parametrize(
    "kind", ["KafkaNodePool/brokers", "Kafka/kafka-entity-operator", "KafkaMirrorMaker2/mirror-in"]
)
def test_pods_that_an_operator_makes_are_asked_the_same(rendered: dict[str, Rendered], kind: str) -> None:
    found = {pod.title: pod for pod in pods(rendered["lumi-aif"].objects)}
    assert found[kind].made_by_operator
    assert not [words for check in POD_RULES.values() for words in check(found[kind])]


def test_a_broker_without_the_restricted_profile_is_found(rendered: dict[str, Rendered]) -> None:
    def relax(document: Object) -> None:
        del document["spec"]["template"]["kafkaContainer"]

    lines = breaches([_spoilt(rendered["lumi-aif"], "KafkaNodePool/brokers", relax)], [])
    assert any("KafkaNodePool/brokers: kafkaContainer keeps capabilities" in line for line in lines)


def test_a_waiver_silences_its_own_breach_and_one_that_nothing_needs_is_a_problem() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"x": "eA=="}}
    wanted = Waiver("x", "no-secret-in-clear", "Secret/s", "a test")
    idle = Waiver("y", "no-secret-in-clear", "Secret/s", "a test")
    assert breaches([Rendered("x", (secret,))], [wanted]) == []
    assert breaches([Rendered("x", (secret,))], [wanted, idle]) == [
        "waiver for Secret/s in y (no-secret-in-clear): nothing needs it any more"
    ]
