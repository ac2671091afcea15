"""What doctor says of the energy counters, from the ledger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
from tests.unit.commands.doctor.test_host import findings, site_of
from tests.unit.core.world import gpu

from joulebook.clock import Anchor
from joulebook.commands.doctor.checks import Status
from joulebook.commands.doctor.gpu import counters
from joulebook.core.energy.audit import Audit, Verdict
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Reading
from joulebook.core.ledger.state import Books, Entry
from joulebook.ledger.sqlite import SqliteStore


def test_counters_that_stand_still_or_run_wrong_are_named(tmp_path: Path) -> None:
    site, _ = site_of(tmp_path, "virtual_machine")
    assert findings(site, counters) == []
    meters = {
        gpu("GPU-0"): MeterState(gpu("GPU-0"), Reading(gpu("GPU-0"), 1), stalled=True),
        gpu("GPU-1"): MeterState(
            gpu("GPU-1"), Reading(gpu("GPU-1"), 1), audit=Audit(verdict=Verdict.WRONG, ratio=0.9)
        ),
        gpu("GPU-2"): MeterState(
            gpu("GPU-2"), Reading(gpu("GPU-2"), 1), audit=Audit(verdict=Verdict.SOUND, ratio=1.001)
        ),
        gpu("GPU-3"): MeterState(gpu("GPU-3"), Reading(gpu("GPU-3"), 1)),
        gpu("GPU-4"): MeterState(
            gpu("GPU-4"),
            Reading(gpu("GPU-4"), 1),
            audit=Audit(verdict=Verdict.CANNOT_TELL, ratio=1.0, odd=((1.12, 3e8),)),
        ),
    }
    store = SqliteStore(tmp_path / "host/ledger.db", allow_volatile=True)
    store.load()
    store.commit(Books(), Books(meters=meters, last_ns=2), Entry(), Anchor("b", 0, 2))
    store.close()
    base = msgspec.structs.replace(site.config.ledger, path="/ledger.db")
    site = replace(site, config=msgspec.structs.replace(site.config, ledger=base))
    still, wrong, fine, asked = sorted(findings(site, counters), key=lambda f: f.found)
    assert still.status is wrong.status is Status.WARN and fine.status is Status.OK
    assert asked.status is Status.WARN
    assert "GPU-4" in asked.found and "shows 112% of the energy" in asked.found
    assert "GPU-0" in still.found and "does not advance" in still.found
    assert "shows 90% of the energy integrated from power" in wrong.found
