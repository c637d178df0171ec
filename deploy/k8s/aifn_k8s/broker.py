"""Topics, users and their rights on the broker, made from the catalogue: what is not listed here is denied."""

from collections.abc import Iterable, Sequence
from typing import Any

from aifn_common.topics import DEAD_LETTER_DAYS
from aifn_events.catalog import TOPICS, Topic
from aifn_fedgate.topics import wanted as signed_topics

from aifn_k8s.workloads import GATE, MACHINE_SERVICE, heard_by, said_by, workloads
from aifn_k8s.yaml_text import Inline

API = "kafka.strimzi.io/v1"
CLUSTER = "kafka"
DAY_MS = 86_400_000
OUTSIDE_TOPIC = "aifn-usage-charged-v1"
RELAYS = ("relay-a", "relay-b")


def topics() -> list[dict[str, Any]]:
    """Every topic of the catalogue, where its hopeless messages go, and what the gate signs."""
    found = []
    for topic in TOPICS:
        found.append(_topic(topic.name, topic.partitions, topic.settings()))
        dead = {"cleanup.policy": "delete", "retention.ms": str(DEAD_LETTER_DAYS * DAY_MS)}
        found.append(_topic(topic.dead_name, 1, dead))
    found += [_topic(new.name, new.num_partitions, new.topic_configs) for new in signed_topics(3)]
    return found


def _topic(name: str, partitions: int, settings: dict[str, str]) -> dict[str, Any]:
    config = {key: int(value) if value.isdigit() else value for key, value in settings.items()}
    return {
        "apiVersion": API,
        "kind": "KafkaTopic",
        "metadata": {"name": name, "labels": Inline({"strimzi.io/cluster": CLUSTER})},
        "spec": {"partitions": partitions, "replicas": 3, "config": {**config, "min.insync.replicas": 2}},
    }


def user(name: str, rules: Sequence[dict[str, Any]], *, quotas: dict[str, int] | None = None) -> dict[str, Any]:
    """One principal with a certificate of its own, and all it may do."""
    spec: dict[str, Any] = {
        "authentication": Inline({"type": "tls"}),
        "authorization": {"type": "simple", "acls": list(rules)},
    }
    if quotas:
        spec["quotas"] = quotas
    return {
        "apiVersion": API,
        "kind": "KafkaUser",
        "metadata": {"name": name, "labels": Inline({"strimzi.io/cluster": CLUSTER})},
        "spec": spec,
    }


def rule(kind: str, name: str, *operations: str, prefix: bool = False, deny: bool = False) -> dict[str, Any]:
    """One line of rights. `prefix` counts for all names that begin so."""
    found: dict[str, Any] = {"type": "deny"} if deny else {}
    resource = {"type": kind, "name": name, "patternType": "prefix" if prefix else "literal"}
    return {**found, "resource": Inline(resource), "operations": list(operations)}


def _cluster_rule(*operations: str) -> dict[str, Any]:
    return {"resource": Inline({"type": "cluster"}), "operations": list(operations)}


def rights(service: str, topics: Iterable[Topic] = TOPICS) -> list[dict[str, Any]]:
    """What one of our services may do: write what it says, read what it hears, set hopeless messages of that aside."""
    listed = tuple(topics)
    found = [rule("topic", topic.name, "Write", "Describe") for topic in said_by(service, listed)]
    heard = heard_by(service, listed)
    found += [rule("topic", topic.name, "Read", "Describe") for topic in heard]
    found += [rule("topic", topic.dead_name, "Write", "Describe") for topic in heard]
    if heard:
        # The last one: names of its consumer groups begin with its own.
        found.append(rule("group", f"{service}-", "Read", "Describe", prefix=True))
    return found


def gate_rights() -> list[dict[str, Any]]:
    """The gate's: what is exported in, what is signed out, and it alone reads what the mirrors bring."""
    exported = [topic for topic in TOPICS if topic.exported]
    found = [rule("topic", topic.name, "Read", "Describe") for topic in exported]
    found += [rule("topic", topic.dead_name, "Write", "Describe") for topic in exported]
    found += [rule("topic", f"{relay}.", "Read", "Describe", prefix=True) for relay in RELAYS]
    found.append(rule("topic", "aifn-out-", "Read", "Write", "Describe", prefix=True))
    found.append(rule("topic", "aifn-in-", "Write", "Describe", prefix=True))
    found += [rule("topic", topic.name, "Write", "Describe") for topic in said_by(GATE) if "-in-" not in topic.name]
    found.append(rule("group", f"{GATE}-", "Read", "Describe", prefix=True))
    return found


def mirror_rights() -> dict[str, list[dict[str, Any]]]:
    """The mirrors', one principal for each direction: out reads what is signed, in writes what is mirrored."""
    # What is our own never comes back: `member` is put in from the site.
    inward = [rule("topic", f"{relay}.member.", "All", prefix=True, deny=True) for relay in RELAYS]
    own = [f"{relay}." for relay in RELAYS] + ["mirror-in-"]
    use = ("Read", "Write", "Create", "Describe", "DescribeConfigs")
    inward += [rule("topic", name, *use, prefix=True) for name in own]
    inward += [rule("group", "mirror-in", "Read", "Describe", prefix=True), _cluster_rule("Describe")]
    outward = [
        rule("topic", "aifn-out-", "Read", "Describe", "DescribeConfigs", prefix=True),
        _cluster_rule("Describe"),
    ]
    return {"mirror-in": inward, "mirror-out": outward}


def users() -> list[dict[str, Any]]:
    """Every principal of a factory except its site agents, and one outsider as an example."""
    services = [one.name for one in workloads() if one.name != MACHINE_SERVICE]
    found = [user(name, rights(name)) for name in services]
    found.append(user(GATE, gate_rights()))
    found += [user(name, rules) for name, rules in mirror_rights().items()]
    # What a subscriber from outside gets: one topic to read, groups of its own name, and a bound on what it takes.
    outside = [
        rule("topic", OUTSIDE_TOPIC, "Read", "Describe"),
        rule("group", "outside-reader-", "Read", "Describe", prefix=True),
    ]
    found.append(user("outside-reader", outside, quotas={"consumerByteRate": 1_048_576, "requestPercentage": 10}))
    return found


def relay_users(members: Iterable[str]) -> list[dict[str, Any]]:
    """The principals of a relay: a member writes what begins with its own name, and reads what all have signed."""
    found = []
    for name in members:
        own = ("Read", "Write", "Create", "Describe", "DescribeConfigs")
        rules = [
            rule("topic", f"{name}.", *own, prefix=True),
            rule("group", f"{name}.", "Read", "Describe", prefix=True),
            rule("topic", "*", "Read", "Describe", "DescribeConfigs"),
            _cluster_rule("Describe"),
        ]
        quotas = {"producerByteRate": 2_097_152, "consumerByteRate": 20_971_520, "requestPercentage": 20}
        found.append(user(name, rules, quotas=quotas))
    return found
