"""`aifn demo`: what to run and how much of it, then the run with its progress bars, then the report."""

import asyncio
import shutil
import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from aifn_client.errors import ClientError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from aifn_local import demo as main_job
from aifn_local import report, stack, story, workload
from aifn_local.errors import StackError
from aifn_local.home import home_folder, make_folder
from aifn_local.laptop import keep_running
from aifn_local.people import Refused

GENERATED_RATE = 30.0
_EXPECTED = (StackError, workload.BadTrace, Refused, ClientError)


def demo(
    trace: Annotated[
        Path | None, typer.Option("--trace", help="A log in the Standard Workload Format (.swf or .swf.gz).")
    ] = None,
    generate: Annotated[
        bool, typer.Option("--generate", help="Jobs from the model of Lublin and Feitelson (2003).")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=20_000, help="How many jobs at most.")] = 2_000,
    seed: Annotated[int, typer.Option("--seed", help="For walltimes and generated jobs.")] = 1,
    factor: Annotated[int, typer.Option("--factor", min=0, help="Simulated seconds in a real one; 0 chooses.")] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, and say where.")] = False,
) -> None:
    """Watch an AI Factory work: awards, jobs, an exact ledger, data and training, on a real Kafka and PostgreSQL."""
    console = Console()
    try:
        chosen = choose(trace, generate=generate, jobs=jobs, seed=seed)
        good = run(chosen, console, seed=seed, factor=factor, keep=keep)
    except KeyboardInterrupt:
        typer.echo("aifn: interrupted; everything is stopped", err=True)
        raise typer.Exit(130) from None
    except (*_EXPECTED, ExceptionGroup) as wrong:
        first: Exception = wrong
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        if not isinstance(first, _EXPECTED):
            raise
        typer.echo(f"aifn: {first}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if good else 1)


def choose(trace: Path | None, *, generate: bool, jobs: int, seed: int) -> main_job.Workload:
    """The jobs of a run, from one of three sources. Raises BadTrace or StackError."""
    if trace is not None and generate:
        raise StackError("--trace and --generate are two sources of jobs: take one")
    if trace is not None:
        try:
            found = workload.read_swf(trace)[:jobs]
        except OSError as wrong:
            raise StackError(f"{trace} cannot be read: {wrong.strerror}") from None
        return main_job.Workload(found, f"{len(found):,} jobs of {trace.name}.")
    if generate:
        made = workload.generate(seed, jobs, largest=64, rate=GENERATED_RATE)
        return main_job.Workload(
            made,
            f"{len(made):,} jobs from the workload model of Lublin and Feitelson (JPDC 63(11), 2003), seed {seed}.",
        )
    found = workload.philly()[:jobs]
    origin = f"{len(found):,} real deep-learning jobs of November 2017 (Philly log, Jeon et al., ATC'19, CC BY 4.0)."
    return main_job.Workload(found, origin, unit="GPU")


def run(chosen: main_job.Workload, console: Console, *, seed: int, factor: int, keep: bool) -> bool:
    """Start everything, run the main job, report; returns whether all invariants hold."""
    factor = factor or main_job.factor_for(chosen.jobs)
    logs = make_folder(home_folder() / "demo-logs", mode=0o700)
    shutil.rmtree(logs)
    make_folder(logs, mode=0o700)
    began = time.monotonic()
    console.print(f"AIFN demo: {chosen.origin}", highlight=False)

    def say(text: str) -> None:
        console.print(f"  {text}", highlight=False)

    with stack.running(say=say) as state:
        say(f"Kafka and PostgreSQL are up after {time.monotonic() - began:.0f} s; starting the services")
        return asyncio.run(_run(state, logs, chosen, console, seed=seed, factor=factor, began=began, keep=keep))


async def _run(
    state: stack.StackState,
    logs: Path,
    chosen: main_job.Workload,
    console: Console,
    *,
    seed: int,
    factor: int,
    began: float,
    keep: bool,
) -> bool:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _interrupt)
    nodes = story.in_service(story.ventures(chosen.jobs, seed=seed))
    async with main_job.running_factory(state, logs, factor, nodes) as (factory, fleet):
        ready = time.monotonic() - began
        console.print(f"  {len(fleet.members)} processes are ready after {ready:.0f} s", highlight=False)
        with Bars(console) as bars:
            one = main_job.Demo(factory, fleet, state, chosen, main_job.Progress(bars.show), seed=seed)
            try:
                outcome = await one.run()
            except Exception:
                bars.stop()
                console.print(f"  the services' logs are in {logs}", highlight=False)
                raise
        outcome.seconds = {"stack and services": ready, **outcome.seconds}
        report.show(outcome, console)
        console.print(f"All in all {time.monotonic() - began:.0f} s.", highlight=False)
        if keep:
            await keep_running(factory, console)
    return outcome.good


def _interrupt() -> None:
    raise KeyboardInterrupt


class Bars:
    """Progress on a terminal: bars; elsewhere: a line for each stage and now and then a count."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._told = 0.0
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<12}"),
            BarColumn(30),
            TextColumn("{task.completed:>6,.0f} of {task.total:,.0f}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._bars: dict[str, TaskID] = {}

    def __enter__(self) -> "Bars":
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bars away."""
        self._progress.stop()

    def show(self, now: main_job.Progress) -> None:
        """Show how far a run is."""
        if now.stage != self._stage:
            self._stage = now.stage
            self._console.print(f"  {now.stage} ...", highlight=False)
        if not now.wanted:
            return
        counts = now.counts
        closed = sum(counts.values()) - sum(counts[name] for name in ("queued", "placed", "dispatched", "running"))
        values = {"asked for": now.submitted + now.refused, "running": counts["running"], "ended": closed}
        if self._console.is_terminal:
            for name, value in values.items():
                if name not in self._bars:
                    self._bars[name] = self._progress.add_task(name, total=now.wanted)
                self._progress.update(self._bars[name], completed=value)
        elif time.monotonic() - self._told > 10:
            self._told = time.monotonic()
            told = ", ".join(f"{value:,} {name}" for name, value in values.items())
            self._console.print(f"  {told} of {now.wanted:,}", highlight=False)
