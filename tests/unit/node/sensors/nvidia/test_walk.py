"""A reading of the driver's counter on its way to /metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from tests.unit.node.sensors.nvidia.nvml_bench import MakeBench
from tests.unit.node.stand_ins import JOB, Jobs, Shelf
from tests.unit.walk import Walk

from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.ledger.advance import BookingPolicy
from joulebook.core.ledger.series import SeriesPolicy
from joulebook.core.workloads import Labels, WorkloadFacts
from joulebook.metrics.derived import joules
from joulebook.metrics.exposition import Exposition
from joulebook.metrics.snapshot import Snapshot
from joulebook.node.daemon import Daemon
from joulebook.node.day_totals import DayTotals
from joulebook.node.health import Health
from joulebook.node.parts import Parts, Settings
from joulebook.node.release import ReleaseHandler
from joulebook.node.sensor_thread import SensorThread

BRANCHES = {
    "core/energy/audit.py": "whether the counter agrees with its power: a metric of its own",
    "node/day_totals.py": "the totals of the day, for the page",
}
"""Where the value goes as well, and not from there to its counter in /metrics."""


def test_a_reading_passes_at_most_20_files_from_nvml_to_metrics(
    bench: MakeBench, tmp_path: Path
) -> None:
    place = bench()
    sensor = place.sensor()
    (meter,) = (reading.meter for reading in sensor.poll(processes=False).readings)
    jobs, shelf, walk = Jobs(), Shelf(), Walk((), ())
    jobs.claims = [Claim(JOB, meter, place.clock.now_ns(), None, Evidence.PROLOG)]
    jobs.facts = [WorkloadFacts(JOB, labels=Labels("ada", "nlp", "bert"), complete=True)]
    worker = SensorThread(sensor, place.clock, kind="counter", known=set())
    health = Health([worker], lately_s=60, hang_s=60)
    exposition = Exposition(
        Snapshot("n1", shelf.books), health.ready, health.healthy, on_error=lambda *_: None
    )
    daemon = Daemon(
        Parts(
            settings=Settings("n1", commit_s=0.0, process_interval_s=0, patience_s=60),
            policy=BookingPolicy(settle_ns=20_000_000, series=SeriesPolicy(zero_hold_ns=0)),
            clock=cast(Any, place.clock), store=shelf, books=shelf.books, workers=[worker],
            sources=[jobs], release=ReleaseHandler(tmp_path / "ledger"), today=DayTotals({}, 0),
            health=health, publish=exposition.publish,
        )
    )  # fmt: skip
    with walk.followed():
        worker.start()
    daemon.tick()
    before_mj = place.scenario.counter_mj(0)
    place.scenario.advance(1_000_000_000)
    after_mj = place.scenario.counter_mj(0)
    energy_uj = (after_mj - before_mj) * 1000
    walk.numbers = {after_mj, after_mj * 1000, energy_uj, joules(energy_uj)}
    walk.texts = {f"}} {joules(energy_uj)}\n"}
    with walk.followed():
        daemon.tick()
        place.scenario.advance(1_000_000_000)
        daemon.tick()
        body, _ = exposition.metrics()
    worker.stop()
    shown = 'workload="101",user="ada",account="nlp",experiment="bert",component="gpu"} '
    assert f"{shown}{joules(energy_uj)}\n" in body.decode()
    passed = walk.files.keys() - BRANCHES.keys()
    assert {"node/sensors/nvidia/api.py", "core/ledger/advance.py", "metrics/collector.py"} < passed
    assert len(passed) <= 20, walk.files
