"""The simulator at a size for every day, and whether it would notice if a check were missing."""

import pytest
from aifn_fedgate.domain import chain, gate
from aifn_fedgate.domain.chain import Chain, Verdict
from aifn_fedgate.domain.envelope import Header

from tests.federation.simulation import Faults, Report, Simulation

ROUGH = Faults(drop=0.02, copy=0.02, alter=0.002, late=0.02, crash=0.002, cut=0.002, cut_seconds=40)


def run(seed: int, *, seconds: int = 60) -> Report:
    return Simulation(members=5, per_second=5, seed=seed, share=1, faults=ROUGH).run(seconds)


def test_nothing_is_believed_twice_out_of_order_or_of_others_and_all_agree_in_the_end() -> None:
    report = run(1, seconds=120)
    assert report.violations == []
    assert report.events == 600
    assert {"accepted", "duplicate", "gap", "quarantined", "equivocation"} <= report.verdicts.keys()
    assert report.verified > report.verdicts["accepted"]
    assert report.longest_gap <= 120


def test_a_seed_gives_the_same_run_each_time() -> None:
    first, second = run(3, seconds=30), run(3, seconds=30)
    assert list(first.lines()) == list(second.lines())


def test_without_the_check_of_signatures_the_simulator_finds_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Simulation, "_verify", lambda *_: True)
    assert any(line.startswith("I7") for line in run(4).violations)


def test_without_the_check_of_sequence_the_simulator_finds_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(at: Chain, header: Header, *rest: object) -> tuple[Verdict, str]:
        verdict, code = chain.place(at, header, *rest)  # type: ignore[arg-type]
        return (Verdict.ACCEPTED, "next") if verdict is Verdict.GAP else (verdict, code)

    monkeypatch.setattr(gate, "place", careless)
    assert any(line.startswith("I4/I6") for line in run(5).violations)
