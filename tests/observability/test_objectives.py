"""Promises are data: rules are made of them, each alert is tried both ways, one that no metric can tell is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from aifn_local.objectives import RUNBOOK, WrongObjective, alert_name, read_objectives, rules_of

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/observability/rules"
TEXT = (ROOT / "deploy/observability/slo/objectives.toml").read_text()
NAMES = [alert_name(one, how) for one in read_objectives(TEXT) for how in ("Fast", "Slowly")]


def expected(file: str) -> dict[str, set[bool]]:
    """For each alert that a test of promtool looks at: whether it was seen to fire, and to be silent."""
    found: dict[str, set[bool]] = {}
    for one in yaml.safe_load((RULES / file).read_text())["tests"]:
        for look in one.get("alert_rule_test", []):
            found.setdefault(look["alertname"], set()).add(bool(look["exp_alerts"]))
    return found


def test_every_promise_has_two_alerts_that_are_seen_to_fire_and_that_its_runbook_names() -> None:
    both = [expected("slo.test.yaml"), expected("slo-days.test.yaml")]
    seen = {name: set().union(*(one.get(name, set()) for one in both)) for name in NAMES}
    assert {name for name in NAMES if True not in seen[name]} == set()
    assert {name for name in NAMES if name.endswith("Fast") and False not in seen[name]} == set()
    runbook = (ROOT / RUNBOOK).read_text()
    assert [name for name in NAMES if f"`{name}`" not in runbook] == []


def test_an_alert_asks_only_for_shares_of_errors_that_are_recorded() -> None:
    groups: list[dict[str, Any]] = yaml.safe_load(rules_of(TEXT))["groups"]
    for group in groups:
        recorded = [rule["record"] for rule in group["rules"] if "record" in rule]
        assert len(recorded) == 7
        for rule in group["rules"]:
            if "alert" in rule:
                asked = [word for word in rule["expr"].replace("(", " ").split() if word.startswith("aifn_slo:")]
                assert len(asked) == 4
                assert set(asked) <= set(recorded)


@pytest.mark.parametrize(
    ("right", "wrong", "why"),
    [
        ('metric = "aifn_http_answers"', 'metric = "aifn_answers"', "availability: aifn_answers is no counter of ours"),
        ('metric = "aifn_outbox_age_seconds"', 'metric = "aifn_outbox_sent"', "outbox: aifn_outbox_sent is no gauge"),
        ("bound = 1.0", "bound = 0.7", "answer-time: 0.7 is no bucket of aifn_http_seconds: 0.005, 0.01"),
        ('percent = "99"', 'percent = "100"', "answer-time: 100 % leaves no budget"),
    ],
)
def test_an_objective_that_no_metric_can_tell_is_refused_by_name(right: str, wrong: str, why: str) -> None:
    with pytest.raises(WrongObjective, match=why):
        rules_of(TEXT.replace(right, wrong, 1))
