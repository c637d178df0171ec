"""Alerts, dashboards and the list of metrics say the same, every alert has a runbook, and each fires on its cause."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from aifn_common.metrics import BY_NAME, CATALOGUE, Metrics
from aifn_local import observability

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/observability/rules"
SUFFIXES = ("_total", "_bucket", "_sum", "_count")


def alerts() -> list[dict[str, Any]]:
    """Every alert of every group."""
    rules = yaml.safe_load((RULES / "aifn.yaml").read_text())
    return [rule for group in rules["groups"] for rule in group["rules"]]


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    plain = re.sub(r"\{[^}]*\}|by \([^)]*\)|\[[^\]]*\]", " ", expression)
    return {name for name in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b|\bup\b", plain) if name != "histogram_quantile"}


def outside() -> set[str]:
    """Metrics that others tell."""
    return {line for line in (RULES / "outside.txt").read_text().splitlines() if line and not line.startswith("#")}


def known_series() -> set[str]:
    """What Prometheus may be asked for."""
    ours = {one.series for one in CATALOGUE}
    ours |= {
        f"{one.name}{end}" for one in CATALOGUE if one.kind == "histogram" for end in ("_bucket", "_sum", "_count")
    }
    return ours | outside() | {"target_info"}


def test_every_alert_asks_for_metrics_that_there_are() -> None:
    asked = set().union(*(names_in(rule["expr"]) for rule in alerts()))
    assert asked <= known_series()
    assert asked >= outside(), "what nobody asks for is not listed"


def test_labels_that_alerts_look_at_are_labels_of_their_metrics() -> None:
    from_scraping = {"namespace", "app_kubernetes_io_name", "pod", "job", "le", "persistentvolumeclaim"}
    for rule in alerts():
        ours = [BY_NAME[name] for series in names_in(rule["expr"]) if (name := _name_of(series)) in BY_NAME]
        known = from_scraping.union(*(one.labels for one in ours))
        looked_at = {
            label.strip() for group in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in group.split(",")
        }
        looked_at |= set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        assert looked_at <= known, rule["alert"]


def _name_of(series: str) -> str:
    for suffix in SUFFIXES:
        if series.removesuffix(suffix) in BY_NAME:
            return series.removesuffix(suffix)
    return series


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_has_a_severity_a_sentence_and_a_runbook_that_names_it(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    runbook = ROOT / rule["annotations"]["runbook"]
    assert runbook.parent == ROOT / "docs/runbooks"
    assert f"`{rule['alert']}`" in runbook.read_text()


def test_every_metric_is_an_instrument_of_its_kind_and_every_instrument_is_in_the_list() -> None:
    made: dict[str, str] = {}

    class Noting(Metrics):
        def _counter(self, name: str) -> Any:
            made[name] = "counter"
            return super()._counter(name)

        def _tally(self, name: str) -> Any:
            made[name] = "counter"
            return super()._tally(name)

        def _gauge(self, name: str) -> Any:
            made[name] = "gauge"
            return super()._gauge(name)

        def _histogram(self, name: str) -> Any:
            made[name] = "histogram"
            return super()._histogram(name)

    Noting()
    assert made == {one.name: one.kind for one in CATALOGUE}


def test_every_metric_is_on_one_dashboard() -> None:
    shown = []
    for path in sorted((ROOT / "deploy/observability/dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        assert board["uid"] == path.stem
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(places) == len(set(places))
        shown += [panel["title"] for panel in board["panels"]]
        for panel in board["panels"]:
            for target in panel["targets"]:
                assert names_in(target["expr"]) <= known_series()
    assert sorted(shown) == sorted(one.series for one in CATALOGUE)


@pytest.mark.parametrize(("resource", "rules"), [("prometheus-rules", "aifn"), ("slo-rules", "slo")])
def test_the_operator_gets_the_same_rules(resource: str, rules: str) -> None:
    found = yaml.safe_load((ROOT / f"deploy/observability/{resource}.yaml").read_text())
    assert found["kind"] == "PrometheusRule"
    assert found["spec"] == yaml.safe_load((RULES / f"{rules}.yaml").read_text())
    assert yaml.safe_load(observability.prometheus_rule("x", "# a\ngroups:\n  - name: b\n"))["spec"] == {
        "groups": [{"name": "b"}]
    }


def test_every_alert_is_tested_both_ways() -> None:
    tested = [one["name"] for one in yaml.safe_load((RULES / "aifn.test.yaml").read_text())["tests"]]
    names = [rule["alert"] for rule in alerts()]
    assert sorted(tested) == sorted(f"{name} {how}" for name in names for how in ("fires", "is silent"))


@pytest.fixture
def promtool() -> str:
    """Prometheus's own checker."""
    found = os.environ.get("AIFN_PROMTOOL") or shutil.which("promtool")
    if not found:
        pytest.skip("no promtool here: .ci/observability fetches one from Debian's prometheus")
    return found


@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "aifn.yaml", "slo.yaml"],
        ["test", "rules", "aifn.test.yaml"],
        ["test", "rules", "slo.test.yaml"],
        ["test", "rules", "slo-days.test.yaml"],
    ],
)
def test_prometheus_itself_takes_the_rules_and_each_fires_on_its_cause_and_on_nothing_beside_it(
    promtool: str, command: list[str]
) -> None:
    done = subprocess.run([promtool, *command], cwd=RULES, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
