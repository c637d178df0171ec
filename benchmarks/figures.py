"""A measured figure beside its reference, printed and kept."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """What was measured, in which unit, and what it is compared with: measured in the same run."""

    figure: str
    value: float
    unit: str
    reference: str
    reference_value: float
    ratio: float


def compare(figure: str, value: float, unit: str, reference: str, reference_value: float) -> Figure:
    """A figure with its ratio to the reference."""
    return Figure(figure, value, unit, reference, reference_value, value / reference_value if reference_value else 0.0)


def keep(name: str, figures: Sequence[Figure]) -> Path:
    """Write build/bench/<name>.json; returns the path."""
    target = Path("build/bench") / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    commit = _commit()
    target.write_text(json.dumps([asdict(figure) | {"commit": commit} for figure in figures], indent=1) + "\n")
    return target


def show(name: str, figures: Sequence[Figure]) -> None:
    """Print a table."""
    table = Table(title=f"benchmark {name}", title_justify="left")
    for column in ("figure", "value", "unit", "reference", "ratio"):
        table.add_column(column, justify="right" if column in ("value", "ratio") else "left")
    for one in figures:
        reference = f"{one.reference} ({one.reference_value:,.4g})"
        table.add_row(one.figure, f"{one.value:,.4g}", one.unit, reference, f"{one.ratio:.3f}")
    Console().print(table)


def _commit() -> str:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
