"""What is made from the list of metrics: its page in the docs, Grafana's dashboards, rules of the objectives, and all
rules as Kubernetes takes them.
"""

import json
from pathlib import Path
from typing import Any

from aifn_common.metrics import CATALOGUE, Metric

from aifn_local.objectives import rules_of

PLUMBING = ("all", "workers", "apis")
RULES = Path("deploy/observability/rules/aifn.yaml")
OBJECTIVES = Path("deploy/observability/slo/objectives.toml")
_TOLD_BY = {
    "all": "every process",
    "workers": "every worker",
    "apis": "every API",
}
_DASHBOARDS = {
    "aifn-services": ("AIFN: services, events and outboxes", PLUMBING),
    "aifn-trade": ("AIFN: plans, books and federation", ("scheduler", "accounting", "fedgate")),
}
_WIDTH, _HEIGHT, _IN_A_ROW = 8, 8, 3
_PAGE_HEAD = """\
# Metrics

Made from code by `make schemas`, from `libs/common/aifn_common/metrics.py`. Every process answers `/metrics`; its
client library adds `process_*` and `python_*`. A histogram has `_bucket`, `_sum` and `_count`. Times are real seconds
unless it says otherwise. What only the leading worker knows is told by that worker alone: take the maximum over the
replicas. Alerts are in `deploy/observability/rules/`, their runbooks in `docs/runbooks/`.

| metric | kind | labels | told by | meaning |
| --- | --- | --- | --- | --- |
"""
_RULE_HEAD = """\
# Made from rules/{file} by `make schemas`: the same rules as the Prometheus operator takes them.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {name}
  labels:
    app.kubernetes.io/part-of: aifn
spec:
"""


def documents(root: Path) -> dict[str, str]:
    """Path and content of what this module makes."""
    found = {"docs/metrics.md": metrics_page()}
    for name in _DASHBOARDS:
        made = json.dumps(dashboard(name), indent=1, ensure_ascii=False)
        found[f"deploy/observability/dashboards/{name}.json"] = made + "\n"
    if (root / RULES).exists():
        found["deploy/observability/prometheus-rules.yaml"] = prometheus_rule("aifn", (root / RULES).read_text())
    if (root / OBJECTIVES).exists():
        rules = rules_of((root / OBJECTIVES).read_text())
        found["deploy/observability/rules/slo.yaml"] = rules
        found["deploy/observability/slo-rules.yaml"] = prometheus_rule("slo", rules)
    return found


def metrics_page() -> str:
    """docs/metrics.md: every metric of our own."""
    lines = _PAGE_HEAD.splitlines()
    for one in CATALOGUE:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        told_by = _TOLD_BY.get(one.told_by, one.told_by)
        lines.append(f"| `{one.series}` | {one.kind} | {labels} | {told_by} | {one.meaning} |")
    return "\n".join(lines) + "\n"


def dashboard(name: str) -> dict[str, Any]:
    """One of Grafana's dashboards: a panel for each metric of its part of the list."""
    title, told_by = _DASHBOARDS[name]
    panels = [_panel(number, one) for number, one in enumerate(m for m in CATALOGUE if m.told_by in told_by)]
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    space = {
        "name": "namespace",
        "type": "query",
        "label": "Factory",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": "label_values(target_info, namespace)",
        "includeAll": True,
        "allValue": ".*",
        "refresh": 2,
    }
    return {
        "uid": name,
        "title": title,
        "tags": ["aifn"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source, space]},
        "panels": panels,
    }


def _panel(number: int, one: Metric) -> dict[str, Any]:
    place = {"x": number % _IN_A_ROW * _WIDTH, "y": number // _IN_A_ROW * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
    targets = [
        {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend}
        for index, (expression, legend) in enumerate(expressions(one))
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": one.series,
        "description": one.meaning,
        "gridPos": place,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "fieldConfig": {"defaults": {"unit": "s" if one.unit == "s" else "short", "min": 0}, "overrides": []},
        "targets": targets,
    }


def expressions(one: Metric) -> list[tuple[str, str]]:
    """What to ask Prometheus for a metric, each with the words of its legend.

    >>> from aifn_common.metrics import BY_NAME
    >>> expressions(BY_NAME["aifn_outbox_sent"])
    [('sum(rate(aifn_outbox_sent_total{namespace=~"$namespace"}[5m]))', 'aifn_outbox_sent_total')]
    """
    here = '{namespace=~"$namespace"}'
    by = f" by ({', '.join(one.labels)}) " if one.labels else ""
    legend = " ".join(f"{{{{{label}}}}}" for label in one.labels) or one.series
    if one.kind == "counter":
        return [(f"sum{by}(rate({one.series}{here}[5m]))", legend)]
    if one.kind == "gauge":
        return [(f"max{by}({one.series}{here})", legend)]
    by = f" by ({', '.join((*one.labels, 'le'))}) "
    rate = f"sum{by}(rate({one.series}_bucket{here}[5m]))"
    return [(f"histogram_quantile({quantile}, {rate})", f"{legend} {quantile}") for quantile in ("0.5", "0.99")]


def prometheus_rule(name: str, rules: str) -> str:
    """The file of rules of that name, as a resource of the Prometheus operator."""
    lines = [line for line in rules.splitlines() if not line.startswith("#")]
    head = _RULE_HEAD.format(file=f"{name}.yaml", name="aifn" if name == "aifn" else f"aifn-{name}")
    return head + "".join(f"  {line}\n" if line else "\n" for line in lines)
