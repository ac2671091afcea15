"""All of what a posting says comes from the node's ledger into the lab's."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.unit.core.world import gpu, job_id

from joulebook.clock import Anchor
from joulebook.core.energy.meter import MeterState
from joulebook.core.energy.readings import Reading
from joulebook.core.evidence import Amount, Method, PostingKey
from joulebook.core.ledger.state import Books, Entry
from joulebook.core.money.amounts import RateUsed, calibration_of
from joulebook.core.money.rates import Quality
from joulebook.core.report.dataset import Selection
from joulebook.core.report.tally import calibrations
from joulebook.core.workloads import WorkloadFacts
from joulebook.lab.collect import validate
from joulebook.lab.collected import ingest
from joulebook.lab.collected.database import opened
from joulebook.lab.collected.report_query import CollectedSource
from joulebook.ledger.query import LedgerReader
from joulebook.ledger.sqlite import SqliteStore

NOW_S = 1_790_812_800
AMOUNT = Amount(1_000, 100, 500, 50, -7, 200, 400)


def test_calibration_and_tensor_time_are_collected(tmp_path: Path) -> None:
    path, url = tmp_path / "ledger.db", f"sqlite://{tmp_path}/c.db"
    key = PostingKey(job_id("101"), gpu(), NOW_S, Method.COUNTER, "prolog")
    used = RateUsed(NOW_S, calibration_of("GPU-0"), 10_000, "ppm", "PDU", Quality.MEASURED)
    meters = {gpu(): MeterState(gpu(), Reading(gpu(), 1), booked_uj=2_000, read_uj=2_000)}
    facts = (WorkloadFacts(job_id("101"), complete=True),)
    with closing(SqliteStore(path, allow_volatile=True)) as store:
        before, _ = store.load()
        books = Books(meters=meters, last_ns=2)
        for half in range(2):  # rows add up
            entry = Entry({key: AMOUNT}, facts=facts, rates={used: Amount(1_000)})
            store.commit(before, books, entry, Anchor("b", 0, 2 + half, NOW_S * 10**9))
            before = books
    with LedgerReader(path) as reader:
        page = reader.page("n1", "", 0)
    validate.check(page, 0, "", "t")
    with opened(url, create=True) as database:
        assert ingest.take(database, page, "t", NOW_S) is not None
    data = CollectedSource(url).account(0, 1 << 40, Selection())
    (posting,) = data.postings
    assert posting.amount == AMOUNT.plus(AMOUNT)
    (found,) = calibrations(data.rates).items()
    assert found == (("n1", "GPU-0", NOW_S), (1.0, frozenset({"PDU"})))
