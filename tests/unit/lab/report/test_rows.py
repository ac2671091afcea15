"""The rows of a statement: all of it comes out of them again, and nothing else fits the digest."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import msgspec
import pytest
from tests.unit.lab.report.hostile import HOSTILE
from tests.unit.lab.report.worked import MODEL, NODE, OWNER, RATES, TRIALS, WANTED, account, gpu

from joulebook.config.lab import ReportSection
from joulebook.core.energy.audit import Audit, Verdict
from joulebook.core.evidence import Amount, Method, Remainder
from joulebook.core.report.dataset import LostStretch, ReportWorkload, Unknowable
from joulebook.core.report.rollup import recharged
from joulebook.core.report.run_roles import RoleChoice, State
from joulebook.core.workloads import Labels
from joulebook.errors import ConfigError
from joulebook.lab.report import rows, statement
from joulebook.lab.report.about import About
from joulebook.lab.report.rows import Basis, Row
from joulebook.lab.report.statement import StatementContext


def basis(name: str = "") -> Basis:
    """The worked example with one of everything, all names replaced by `name`."""
    whole = recharged(account(), RATES, WANTED).account
    first = whole.postings[0]
    nobodys = first._replace(
        subject=Remainder.UNALLOCATED, amount=Amount(-5, 0, 7, 0, 2), method=None, evidence=None
    )
    labels = Labels(name, name, name) if name else OWNER
    data = msgspec.structs.replace(
        whole,
        source=name or "ledger of gpu-1",
        postings=(*whole.postings, nobodys, first._replace(node=name or NODE, evidence=name)),
        workloads={
            trial: ReportWorkload(trial, name=name, labels=labels, extra={"k": name}, gpu_count=2)
            for trial in TRIALS
        },
        gaps=(LostStretch(NODE, gpu(0), "hung", 5, 9),),
        models={(NODE, gpu(0)): MODEL},
        known_until_s={NODE: whole.until_s},
        unknown={Unknowable.GAPS: name or "not asked"},
        warnings=(name,),
        audits={(NODE, gpu(0)): Audit(verdict=Verdict.WRONG, ratio=0.9)},
        replayed=frozenset({(NODE, gpu(1))}),
        cut=frozenset({TRIALS[1]}),
    )
    about = About(title=name or "a paper", utilization=0.4)
    choice = RoleChoice("101", ("10*",), {"102": name or "wrong data"})
    states = {TRIALS[0]: State.FAILED}
    context = StatementContext(1.5, states, name, ReportSection(region=name), "DE")
    return Basis(data, about, choice, context)


@pytest.mark.parametrize("name", ["", *HOSTILE])
def test_all_that_a_statement_is_made_of_comes_back(name: str) -> None:
    before = basis(name)
    after = rows.read(rows.write(before), "rows.csv")
    assert after == before
    assert statement.make(*after) == statement.make(*before)


def test_no_cell_is_a_formula() -> None:
    for name in HOSTILE:
        for cells in csv.reader(io.StringIO(rows.write(basis(name)))):
            texts = [cell for cell in cells if not cell.lstrip("-").isdecimal()]
            assert not any(cell.startswith(tuple("=+-@\t\r")) for cell in texts)


def test_the_digest_is_of_figures_and_not_of_names() -> None:
    before = basis()
    renamed = {
        key: msgspec.structs.replace(each, labels=Labels("user-1"), name="", extra={})
        for key, each in before.account.workloads.items()
    }
    data = msgspec.structs.replace(before.account, workloads=renamed)
    assert rows.digest(before._replace(account=data)) == rows.digest(before)
    for n, row in enumerate(before.account.postings):
        more = row._replace(amount=row.amount._replace(energy_uj=row.amount.energy_uj + 1))
        postings = (*before.account.postings[:n], more, *before.account.postings[n + 1 :])
        data = msgspec.structs.replace(before.account, postings=postings)
        assert rows.digest(before._replace(account=data)) != rows.digest(before)
        if n > 20:
            break


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 rows of the table statement, expected one"),
        ("a,b\n", "not a file of rows: expected the columns table, node"),
        ("{head}\nposting\n", "row 2: 1 columns, expected 23"),
        ("{head}\n{other}\n", "row 2: table 'bill': expected one of statement"),
        ("{head}\n{wrong}\n", "row 2: invalid literal for int"),
        ('{head}\n"x', "row 2: unexpected end of data"),
    ],
)
def test_what_is_no_file_of_rows_is_named(text: str, said: str) -> None:
    head = ",".join(Row._fields)
    other = ",".join(Row("bill"))
    posting = Row("posting", NODE, "slurm", "1", "0", "gpu", "GPU-0", "0", Method.COUNTER.value)
    wrong = ",".join(posting)
    with pytest.raises(ConfigError, match=said) as raised:
        rows.read(text.format(head=head, other=other, wrong=wrong), "rows.csv")
    assert str(raised.value).startswith("rows.csv")


def _more_in_facts(row: list[str]) -> list[list[str]]:
    return [[*row[:-1], row[-1].replace("{", '{"saved_kg":12,', 1)]]


def _a_fact_twice(row: list[str]) -> list[list[str]]:
    return [[*row[:-1], row[-1].replace("{", '{"display":"x","source":"y",', 1)]]


def _a_decoy_first(row: list[str]) -> list[list[str]]:
    return [[*row[:-1], row[-1].replace("A100", "H100").replace("a paper", "mine")], row]


def _a_cell_of_no_use(row: list[str]) -> list[list[str]]:
    return [[*row[:19], "7", *row[20:]]]


@pytest.mark.parametrize(
    ("table", "change"),
    [
        *((table, _a_decoy_first) for table in ("workload", "model")),
        *((table, _more_in_facts) for table in ("statement", "workload", "gap")),
        *((table, _a_fact_twice) for table in ("statement", "workload")),
        *((table, _a_cell_of_no_use) for table in ("workload", "model", "posting", "rate", "gap")),
    ],
)
def test_what_no_statement_is_made_of_is_refused(
    table: str, change: Callable[[list[str]], list[list[str]]]
) -> None:
    """A reader would take it for checked."""
    lines = list(csv.reader(io.StringIO(rows.write(basis()))))
    n = next(n for n, each in enumerate(lines) if each[0] == table)
    text = io.StringIO()
    csv.writer(text).writerows([*lines[:n], *change(lines[n]), *lines[n + 1 :]])
    with pytest.raises(ConfigError, match=r"^rows.csv, row \d+: ") as raised:
        rows.read(text.getvalue(), "rows.csv")
    assert len(str(raised.value)) < 200


def test_a_number_is_written_in_one_way_only() -> None:
    """`int` takes `1_0`, `+10` and ` 10`; who adds a column up sees something else."""
    text = rows.write(basis())
    energy = str(basis().account.postings[0].amount.energy_uj)
    for odd in (f"+{energy}", f" {energy}", f"{energy[0]}_{energy[1:]}", f"0{energy}"):
        with pytest.raises(ConfigError, match="row "):
            rows.read(text.replace(f",{energy},", f",{odd},", 1), "rows.csv")


def test_json_may_be_laid_out_anew() -> None:
    """As a script does that replaces the names."""
    lines = list(csv.reader(io.StringIO(rows.write(basis()))))
    for each in lines[1:]:
        if each[-1]:
            each[-1] = json.dumps(json.loads(each[-1]), indent=1)
    text = io.StringIO()
    csv.writer(text).writerows([lines[0], *reversed(lines[1:])])
    assert sorted(rows.write(rows.read(text.getvalue(), "rows.csv"))) == sorted(rows.write(basis()))
