"""The whole demo, as `make demo` runs it: how long it takes, and how much memory all its processes take together.

References: the real time in which its jobs arrive, which no machine can shorten, and the memory of the broker and the
database server alone.
"""

import asyncio
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from aifn_local import stack, workload
from aifn_local.demo import Demo, Outcome, Progress, Workload, factor_for, running_factory
from aifn_local.memory import together_mb

from benchmarks.figures import Figure, compare


def run() -> list[Figure]:
    """Seconds from the first process to the report, and MiB at the peak. Raises RuntimeError if an invariant fails."""
    jobs = workload.philly()
    began = time.monotonic()
    with stack.running() as state, TemporaryDirectory() as logs:
        alone = together_mb(part.pid for part in stack.status(state.name, state.home) if part.pid is not None)
        outcome = asyncio.run(_play(state, Path(logs), jobs))
    took = time.monotonic() - began
    if not outcome.good:
        raise RuntimeError(f"{[one.statement for one in outcome.checks if not one.holds]}")
    arrival = max(job.submitted_second for job in jobs) / outcome.factor
    return [
        compare("demo of 2,000 jobs", took, "s", "arrival of its jobs", arrival),
        compare("memory of all processes at its peak", outcome.peak_mb, "MiB", "broker and database alone", alone),
    ]


async def _play(state: stack.StackState, logs: Path, jobs: list[workload.TraceJob]) -> Outcome:
    chosen = Workload(jobs, "the demo's own jobs")
    async with running_factory(state, logs, factor_for(jobs)) as (factory, fleet):
        return await Demo(factory, fleet, state, chosen, Progress(lambda _: None)).run()
