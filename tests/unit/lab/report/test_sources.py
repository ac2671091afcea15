"""Ledgers as a source: nothing left out, nothing counted twice, and only what was asked for."""

from __future__ import annotations

import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.commands.ledger_sample import ADA, GPUS, SWEEP, write_ledger

from joulebook.commands.report.source import refuse_unknown
from joulebook.config import Config
from joulebook.config.node import NodeSection
from joulebook.core.energy.readings import REPLAYED
from joulebook.core.evidence import Remainder
from joulebook.core.report.dataset import ReportData, Selection
from joulebook.core.report.parts import joined
from joulebook.core.report.run_roles import RoleChoice
from joulebook.core.report.runs import runs
from joulebook.errors import ConfigError
from joulebook.lab.report.about import About
from joulebook.lab.report.sources import FOREVER_S, LedgerSource, NodeLedger, named, own
from joulebook.lab.report.statement import StatementContext, make
from joulebook.lab.report.wording import sentences
from joulebook.ledger.query import LedgerReader

ALL = Selection()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "n1.db"
    write_ledger(path)
    return path


def ask(wanted: Selection, *ledgers: NodeLedger) -> ReportData:
    return LedgerSource(ledgers).account(0, FOREVER_S, wanted)


def energy(account: ReportData) -> int:
    return sum(row.amount.energy_uj for row in account.postings)


def test_all_that_was_booked_is_in_the_account(ledger: Path) -> None:
    account = ask(ALL, NodeLedger("n1", ledger))
    with LedgerReader(ledger) as reader:
        assert energy(account) == sum(each.postings_uj for each in reader.balance_check())
    assert account.source == "ledger of n1"
    assert account.nodes == ("n1",)
    assert account.known_until_s.keys() == {"n1"}
    assert Remainder.UNALLOCATED in {row.subject for row in account.postings}


@pytest.mark.parametrize(
    ("wanted", "labels", "count"),
    [
        (Selection(experiments=frozenset({"sweep"})), SWEEP, 11),
        (Selection(users=frozenset({"grace"})), SWEEP, 11),
        (Selection(accounts=frozenset({"vision"})), SWEEP, 11),
        (Selection(workloads=frozenset({"200_7"})), SWEEP, 1),
        (Selection(workloads=frozenset({"slurm/300.r1"})), ADA, 1),
        (
            Selection(accounts=frozenset({"nlp"}), workloads=frozenset({"101", "200_1"})),
            ADA,
            1,
        ),
    ],
)
def test_what_is_selected_is_what_a_scan_would_take(
    ledger: Path, wanted: Selection, labels: object, count: int
) -> None:
    account = ask(wanted, NodeLedger("n1", ledger))
    assert len(account.workloads) == count
    assert {each.labels for each in account.workloads.values()} == {labels}
    every = ask(ALL, NodeLedger("n1", ledger))
    taken = {key for key, each in every.workloads.items() if wanted.takes(each)}
    assert taken == account.workloads.keys()
    assert set(account.postings) == {row for row in every.postings if row.subject in taken}


def test_a_ledger_of_a_recorded_trace_says_so(tmp_path: Path) -> None:
    """A demo's statement must not read as if somebody had measured it here."""
    path = tmp_path / "demo.db"
    write_ledger(path, epoch=REPLAYED)
    account = ask(ALL, NodeLedger("n1", path))
    (warning,) = account.warnings
    assert "ledger of n1 has data from a recorded trace" in warning
    assert all(meter.name in warning for meter in GPUS)
    statement = make(account, About(), RoleChoice(), StatementContext(0))
    assert sentences(statement)[0] == f"Warning: {warning}."


def test_a_name_that_looks_like_sql_is_a_name(ledger: Path) -> None:
    wanted = Selection(experiments=frozenset({"x') OR 1=1 --", 'y" OR ""="'}))
    assert ask(wanted, NodeLedger("n1", ledger)).postings == ()


def test_two_nodes_are_the_sum_of_both(ledger: Path, tmp_path: Path) -> None:
    copy = tmp_path / "n2.db"
    shutil.copy(ledger, copy)
    with closing(sqlite3.connect(copy)) as other, other:
        other.execute("UPDATE ledger SET ledger_id = 'another'")
    both = ask(ALL, named(str(ledger)), named(f"node-2={copy}"))
    one = ask(ALL, named(str(ledger)))
    assert energy(both) == 2 * energy(one)
    assert both.nodes == ("n1", "node-2")
    # A job on many nodes is one job.
    assert len(runs(both)) == len(runs(one))
    assert {run.nodes for run in runs(both)} == {("n1", "node-2")}
    counts = [{run.shown: run.gpu_count for run in runs(each)} for each in (both, one)]
    assert counts[0]["101"] == 2 * counts[1]["101"]


def test_a_job_that_nobody_read_is_a_run_and_no_statement_of_it_alone_is_made(
    ledger: Path, tmp_path: Path
) -> None:
    path = tmp_path / "n1.db"
    shutil.copy(ledger, path)
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(
            "INSERT INTO workloads (seq, touched_s, scheduler, workload, user, account, experiment,"
            " start, started_utc_ns, ended_utc_ns, complete, gpu_count, evidence)"
            " SELECT seq, touched_s, scheduler, '9', user, account, 'away', start, started_utc_ns,"
            " started_utc_ns + 1000000000, 1, 4, 'prolog' FROM workloads WHERE workload = '101'"
        )
        conn.commit()
    found = [run for run in runs(ask(ALL, NodeLedger("n1", path))) if run.shown == "9"]
    assert [(run.tally.wall_ns, run.tally.coverage) for run in found] == [(4 * 10**9, 0)]
    alone = Selection(experiments=frozenset({"away"}))
    got = ask(alone, NodeLedger("n1", path))
    assert not got.workloads
    with pytest.raises(ConfigError, match="away: nothing was booked to it while it held GPUs"):
        refuse_unknown(LedgerSource([NodeLedger("n1", path)]), (0, FOREVER_S), alone, got)


@pytest.mark.parametrize(("since_s", "until_s"), [(FOREVER_S - 1, FOREVER_S), (-FOREVER_S, 1)])
def test_any_time_may_be_asked_for(ledger: Path, since_s: int, until_s: int) -> None:
    assert not LedgerSource([NodeLedger("n1", ledger)]).account(since_s, until_s, ALL).postings


def test_the_same_node_twice_is_refused(ledger: Path) -> None:
    with pytest.raises(ConfigError, match="is also of node n1"):
        LedgerSource([named(str(ledger)), named(f"n1={ledger}")])
    account = ask(ALL, named(str(ledger)))
    with pytest.raises(ValueError, match="node n1 is in both ledger of n1 and ledger of n1"):
        joined([account, account])


def test_two_copies_of_one_ledger_are_refused_whatever_they_are_called(
    ledger: Path, tmp_path: Path
) -> None:
    tuesday = tmp_path / "n1-tuesday.db"
    shutil.copy(ledger, tuesday)
    with pytest.raises(ConfigError, match=r"n1-tuesday.db: is the same ledger as .*n1.db"):
        ask(ALL, named(str(ledger)), named(str(tuesday)))


def test_the_node_of_a_ledger() -> None:
    assert named("/copies/gpu-7.db") == NodeLedger("gpu-7", Path("/copies/gpu-7.db"))
    assert named("/odd=name/gpu-7.db") == NodeLedger("gpu-7", Path("/odd=name/gpu-7.db"))
    assert own(Config(node=NodeSection(name="n3"))).node == "n3"
    assert own(Config()).node == Config().node_name() == socket.gethostname().partition(".")[0]
