"""Rules that say when a promise is being broken, made from the list of objectives and the list of metrics.

Several windows and burn rates, as in "The Site Reliability Workbook" (Google, 2018), chapter 5, table 5-8: a person is
woken when the errors of a month would be used up in two days (or five), and told in the day when in ten days or thirty.
The short window beside each long one ends the alert soon after its cause.
"""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from aifn_common.metrics import BY_NAME, Metric

RUNBOOK = "docs/runbooks/objectives.md"
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""Windows whose share of errors is kept as a series of its own."""


@dataclass(frozen=True)
class Burn:
    """So many times faster than allowed, over both windows."""

    rate: str
    long: str
    short: str


URGENT = (Burn("14.4", "1h", "5m"), Burn("6", "6h", "30m"))
SLOW = (Burn("3", "1d", "2h"), Burn("1", "3d", "6h"))
_ALERTS: Sequence[tuple[str, str, tuple[Burn, ...], str]] = (
    ("Fast", "critical", URGENT, "within days"),
    ("Slowly", "warning", SLOW, "before its month ends"),
)
_HEAD = """\
# Made from slo/objectives.toml by `make schemas`: shares of errors over several windows, and alerts when a promise is
# being broken. Tested by rules/slo.test.yaml with promtool.
groups:
"""


class WrongObjective(ValueError):
    """An objective that no metric of ours can tell."""


@dataclass(frozen=True)
class Objective:
    """A promise: `percent` of what a metric tells is good, over 30 days."""

    name: str
    kind: Literal["answers", "times", "moments"]
    metric: str
    by: tuple[str, ...]
    percent: str
    promise: str
    bad: str = ""
    bound: float = 0
    select: str = ""

    @property
    def budget(self) -> str:
        """The share that may be bad, exactly.

        >>> Objective("a", "answers", "aifn_http_answers", (), "99.5", "answers").budget
        '0.005'
        """
        return format(((100 - Decimal(self.percent)) / 100).normalize(), "f")

    def series(self, window: str) -> str:
        """The name of the recorded share of errors."""
        return f"aifn_slo:{self.name.replace('-', '_')}:errors_{window}"

    def errors(self, window: str) -> str:
        """The share of what was bad over a window, for Prometheus."""
        metric, by = BY_NAME[self.metric], f"sum by ({', '.join(self.by)})"
        if self.kind == "answers":
            bad, every = f"{metric.series}{{{self.bad}}}", metric.series
            # Where nothing was ever bad there is no such series, and none of bad ones is not nothing known.
            return (
                f"({by} (rate({bad}[{window}])) or 0 * {by} (rate({every}[{window}])))"
                f" / ({by} (rate({every}[{window}])) > 0)"
            )
        if self.kind == "times":
            good = f'{metric.name}_bucket{{le="{float(self.bound)}"}}'
            return f"1 - {by} (rate({good}[{window}])) / ({by} (rate({metric.name}_count[{window}])) > 0)"
        worst = f"max by ({', '.join(self.by)}) ({metric.series}{{{self.select}}})".replace("{}", "")
        return f"avg_over_time(({worst} > bool {self.bound:g})[{window}:1m])"

    def burns(self, rates: Iterable[Burn]) -> str:
        """When errors come so fast, for Prometheus."""

        def both(one: Burn) -> str:
            least = f"{one.rate} * {self.budget}"
            return f"({self.series(one.long)} > {least} and {self.series(one.short)} > {least})"

        return "\n  or ".join(both(one) for one in rates)

    def check(self) -> None:
        """Raises WrongObjective, if there is no such metric, label or bucket."""
        metric = BY_NAME.get(self.metric)
        wanted = {"answers": "counter", "times": "histogram", "moments": "gauge"}[self.kind]
        if metric is None or metric.kind != wanted:
            raise WrongObjective(f"{self.name}: {self.metric} is no {wanted} of ours")
        if self.kind == "times" and float(self.bound) not in metric.buckets:
            raise WrongObjective(f"{self.name}: {self.bound} is no bucket of {self.metric}: {_buckets(metric)}")
        if not 0 < Decimal(self.percent) < 100:
            raise WrongObjective(f"{self.name}: {self.percent} % leaves no budget of errors or no promise")


def read_objectives(text: str) -> list[Objective]:
    """The objectives of a file. Raises WrongObjective."""
    found = [Objective(**one | {"by": tuple(one["by"])}) for one in tomllib.loads(text)["objective"]]
    for one in found:
        one.check()
    return found


def alert_name(one: Objective, how: str) -> str:
    """How an alert is called.

    >>> alert_name(Objective("answer-time", "times", "aifn_http_seconds", (), "99", "x"), "Fast")
    'AifnPromiseAnswerTimeBreaksFast'
    """
    return f"AifnPromise{one.name.title().replace('-', '')}Breaks{how}"


def rules_of(text: str) -> str:
    """Prometheus's rules for a file of objectives. Raises WrongObjective."""
    return _HEAD + "".join(_group(one) for one in read_objectives(text))


def _group(one: Objective) -> str:
    lines = [f"  - name: aifn-slo-{one.name}", "    rules:"]
    for window in WINDOWS:
        lines += [f"      - record: {one.series(window)}", f"        expr: {one.errors(window)}"]
    for how, severity, rates, until in _ALERTS:
        lines += [
            f"      - alert: {alert_name(one, how)}",
            "        expr: |",
            *(f"          {line}" for line in one.burns(rates).splitlines()),
            f"        labels: {{severity: {severity}, objective: {one.name}}}",
            "        annotations:",
            f'          summary: "{one.percent} % of {one.promise} is promised; at this pace that is broken {until}"',
            f"          runbook: {RUNBOOK}",
        ]
    return "\n".join(lines) + "\n"


def _buckets(metric: Metric) -> str:
    return ", ".join(f"{bucket:g}" for bucket in metric.buckets)
