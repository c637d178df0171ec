"""Who follows what: a worker follows the messages that wait for its groups, an API follows its CPU."""

from typing import Any

from aifn_k8s.broker import CLUSTER
from aifn_k8s.workloads import MACHINE_SERVICE, Hearing, Workload, workloads
from aifn_k8s.yaml_text import Inline, to_yaml

LEAST, MOST_APIS = 2, 6
LAG_PER_WORKER = {"aifn-usage-reported-v1": 50_000}
LAG_ELSEWHERE = 500
"""Messages that one worker may have before it gets help: usage goes in batches of thousands, the rest one by one."""


def scalers() -> str:
    """components/keda/scalers.yaml. Site agents are left out: each is alone with its machine."""
    found: list[dict[str, Any]] = []
    for workload in workloads():
        if workload.name == MACHINE_SERVICE:
            continue
        found += [_credentials(workload.name), _scaled(workload)]
        if workload.has_api:
            found.append(_by_cpu(workload.name))
    return to_yaml(found)


def _credentials(name: str) -> dict[str, Any]:
    """The scaler looks at the broker as the service itself: it may see its own groups."""
    references = [
        Inline({"parameter": "ca", "name": f"{CLUSTER}-cluster-ca-cert", "key": "ca.crt"}),
        Inline({"parameter": "cert", "name": name, "key": "user.crt"}),
        Inline({"parameter": "key", "name": name, "key": "user.key"}),
    ]
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "TriggerAuthentication",
        "metadata": {"name": f"{name}-worker"},
        "spec": {"secretTargetRef": references},
    }


def _scaled(workload: Workload) -> dict[str, Any]:
    name = f"{workload.name}-worker"
    slow_down = {
        "stabilizationWindowSeconds": 600,
        "policies": [Inline({"type": "Pods", "value": 1, "periodSeconds": 300})],
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": Inline({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name}),
            "minReplicaCount": LEAST,
            "maxReplicaCount": max(LEAST, workload.most_workers),
            # A broker that does not answer is no reason to send anybody home.
            "fallback": Inline({"failureThreshold": 3, "replicas": LEAST}),
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleDown": slow_down}}},
            "triggers": [_trigger(name, one) for one in workload.hears],
        },
    }


def _trigger(name: str, hearing: Hearing) -> dict[str, Any]:
    return {
        "type": "kafka",
        "metadata": {
            "bootstrapServers": f"{CLUSTER}-kafka-bootstrap:9093",
            "topic": hearing.topic,
            "consumerGroup": hearing.group,
            "lagThreshold": str(LAG_PER_WORKER.get(hearing.topic, LAG_ELSEWHERE)),
            # A message that nobody can handle does not need more hands.
            "excludePersistentLag": "true",
            "offsetResetPolicy": "earliest",
            "tls": "enable",
        },
        "authenticationRef": Inline({"name": name}),
    }


def _by_cpu(service: str) -> dict[str, Any]:
    name = f"{service}-api"
    metric = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": Inline({"type": "Utilization", "averageUtilization": 70})},
    }
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": Inline({"apiVersion": "apps/v1", "kind": "Deployment", "name": name}),
            "minReplicas": LEAST,
            "maxReplicas": MOST_APIS,
            "metrics": [metric],
        },
    }
