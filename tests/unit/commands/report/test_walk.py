"""A posting on its way from the commit to what `joulebook report` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.core.money.test_accrual import H100, T0_S, Cashier, hourly, priced, rates_of
from tests.unit.core.world import Run, S, gpu, job_id, play
from tests.unit.ledger.test_charges import written
from tests.unit.walk import Walk

from joulebook.cli import main
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Reading
from joulebook.core.ledger.advance import BookingPolicy, Tick
from joulebook.core.money.rates import UG_PER_G
from joulebook.core.workloads import Labels, WorkloadFacts
from joulebook.lab.report.wording import number
from joulebook.ledger.sqlite import SqliteStore
from joulebook.units import UJ_PER_J, UJ_PER_KWH

STEP_S = 900
POWERS_W = {
    ("GPU-0", "1"): (7_001, 6_007),
    ("GPU-1", "1"): (2_003, 1_009),
    ("GPU-2", "2"): (3_011, 4_013),
    ("GPU-3", "3"): (5_021, 1_553),
}
"""Power of each GPU and of whose job, in two quarter hours. No sum equals another by accident: of a
meter, a quarter hour or a node it is neither one posting's energy, nor a run's, nor all runs'."""

EXPERIMENTS = {"1": "bert", "2": "other", "3": "bert"}


def booked() -> Run:
    """Three jobs of two experiments on four GPUs."""

    def ticks() -> Iterator[Tick]:
        for n in range(3):
            now_ns = (T0_S + n * STEP_S) * S
            yield Tick(
                now_ns,
                readings=tuple(
                    Reading(
                        gpu(name), now_ns, 5_000_000 + sum(watts[:n]) * STEP_S * UJ_PER_J,
                        epoch="b", max_power_mw=10**13, busy=True,
                    )
                    for (name, _), watts in POWERS_W.items()
                ),
                claims=tuple(
                    Claim(
                        job_id(job), gpu(name), T0_S * S, None if n < 2 else now_ns, Evidence.PROLOG
                    )
                    for name, job in POWERS_W
                ),
                complete=frozenset({Evidence.PROLOG}),
                facts=tuple(
                    WorkloadFacts(job_id(job), labels=Labels("ada", "nlp", of), complete=True)
                    for job, of in EXPERIMENTS.items()
                ),
            )  # fmt: skip

    rates = rates_of([], hourly(300 * UG_PER_G), 1_250_000)
    return play(priced(ticks(), rates, H100), BookingPolicy(settle_ns=0), Cashier())


@pytest.mark.parametrize(
    ("options", "through"),
    [
        (["--json"], "lab/report/by_owner.py"),
        (["--experiment", "bert", "--format", "json"], "lab/report/statement.py"),
        (["--experiment", "bert", "--format", "latex"], "lab/report/wording.py"),
        (["--experiment", "bert", "--format", "markdown"], "lab/report/wording.py"),
    ],
    ids=["owners", "statement", "paper", "readme"],
)
def test_a_posting_passes_at_most_15_files_from_the_commit_to_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], through: str
) -> None:
    of_run = [watts for (_, job), watts in POWERS_W.items() if job == "1"]
    of_all = [watts for (_, job), watts in POWERS_W.items() if EXPERIMENTS[job] == "bert"]
    posting_uj = of_run[0][0] * STEP_S * UJ_PER_J
    run_uj, all_uj = (sum(map(sum, each)) * STEP_S * UJ_PER_J for each in (of_run, of_all))
    kwh = all_uj / UJ_PER_KWH
    walk = Walk({posting_uj, run_uj, all_uj, kwh}, {str(kwh), f"{number(kwh)} kWh"})
    path = tmp_path / "ledger.db"
    config = tmp_path / "joulebook.toml"
    config.write_text(f'[ledger]\npath = "{path}"\n')
    run = booked()
    with walk.followed():
        with closing(SqliteStore(path, allow_volatile=True)) as store:
            written(store, run)
        assert main(["--config", str(config), "report", *options]) == 0
    out = capsys.readouterr().out
    if options[-1].endswith("json"):
        assert str(kwh) in out
        assert json.loads(out)
    else:
        assert f"The GPUs consumed {number(kwh)} kWh" in out
    # These two hand it to sqlite, and give nothing back.
    passed = {*walk.files, "ledger/sqlite.py", "ledger/write.py"}
    assert {"ledger/report_query.py", through} < passed
    assert len(passed) <= 15, walk.files
