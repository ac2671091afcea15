"""Runs add up to what was posted, whatever nodes they were on; coverage; roles."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.audit import laws

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Method, Remainder
from joulebook.core.money.amounts import RateUsed
from joulebook.core.money.rates import PPM, RATIO_PPM, Quality
from joulebook.core.report.dataset import (
    LostStretch,
    Posting,
    ReportData,
    ReportWorkload,
    Selection,
    UsedRate,
)
from joulebook.core.report.parts import joined
from joulebook.core.report.rollup import held
from joulebook.core.report.run_roles import RoleChoice, State, sort_out
from joulebook.core.report.runs import remainders, runs
from joulebook.core.report.tally import added
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.units import NS_PER_HOUR, NS_PER_S, UJ_PER_KWH

JOBS = tuple(WorkloadId("slurm", str(n)) for n in range(4))
GPU = Meter(Component.GPU, "GPU-0")
CPU = Meter(Component.CPU, "package-0")
T0_S = 1_767_225_600

rows = st.builds(
    Posting,
    node=st.sampled_from(("n1", "n2")),
    subject=st.sampled_from((*JOBS, Remainder.UNALLOCATED)),
    meter=st.sampled_from((GPU, CPU)),
    quarter_s=st.integers(0, 3).map(lambda n: T0_S + 900 * n),
    amount=st.builds(
        Amount, st.integers(0, 10**15), st.integers(0, 10**9), st.integers(0, NS_PER_HOUR)
    ),
    method=st.sampled_from((*Method, None)),
    evidence=st.sampled_from(("prolog", None)),
)


@laws(60)
@given(st.lists(rows, max_size=30))
def test_runs_and_remainders_are_all_that_was_posted(postings: list[Posting]) -> None:
    account = ReportData("test", 0, 1 << 40, tuple(postings))
    found = runs(account)
    whole = added([*(run.tally for run in found), *remainders(account).values()])
    consumed = sum(row.amount.energy_uj for row in postings)
    assert whole.energy_uj == consumed
    assert sum(whole.by_method.values()) == consumed
    assert sum(whole.by_evidence.values()) == consumed
    assert whole.idle_uj == sum(row.amount.idle_uj for row in postings)
    assert whole.no_pue_uj == consumed
    # A job on two nodes is one run.
    assert len({run.workload.id for run in found}) == len(found)
    by_node = [
        ReportData("test", 0, 1 << 40, tuple(row for row in postings if row.node == node))
        for node in ("n1", "n2")
    ]
    assert added(run.tally for run in runs(joined(by_node))) == added(run.tally for run in found)


def one(amount: Amount, method: Method = Method.COUNTER, **more: object) -> ReportData:
    workload = ReportWorkload(
        JOBS[0],
        labels=Labels("ada", "nlp", "bert"),
        started_utc_ns=T0_S * NS_PER_S,
        ended_utc_ns=T0_S * NS_PER_S + NS_PER_HOUR,
    )
    posting = Posting("n1", JOBS[0], GPU, T0_S, amount, method, "prolog")
    return ReportData("test", 0, 1 << 40, (posting,), workloads={JOBS[0]: workload}, **more)  # type: ignore[arg-type]


def test_coverage_is_measured_time_to_held_time() -> None:
    (run,) = runs(one(Amount(UJ_PER_KWH, 0, NS_PER_HOUR * 3 // 4)))
    assert run.tally.coverage == 0.75
    (whole,) = runs(one(Amount(UJ_PER_KWH, 0, NS_PER_HOUR)))
    assert whole.tally.coverage == 1


def test_a_run_that_nobody_read_is_one_whose_energy_is_not_known() -> None:
    """A job that began and ended while the daemon was away, say."""
    data = one(Amount(UJ_PER_KWH, 0, NS_PER_HOUR))
    (read,) = data.workloads.values()
    unread = msgspec.structs.replace(read, id=JOBS[1], gpu_count=2, evidence="prolog")
    others = [
        msgspec.structs.replace(unread, id=JOBS[2], gpu_count=0),
        msgspec.structs.replace(unread, id=JOBS[3], evidence="processes"),
        msgspec.structs.replace(unread, id=WorkloadId("slurm", "9"), ended_utc_ns=None),
    ]
    known = {each.id: each for each in (read, unread, *others)}
    data = msgspec.structs.replace(data, workloads=known)
    first, second = runs(data)
    assert (first.tally.coverage, second.tally.coverage) == (1, 0)
    assert added([first.tally, second.tally]).coverage == pytest.approx(1 / 3)
    assert held(data) == {read.labels: 3 * NS_PER_HOUR}
    # Half of it is in the time of the report.
    half = msgspec.structs.replace(data, since_s=T0_S + 1800, postings=())
    (run,) = (run for run in runs(half) if run.workload.id == JOBS[1])
    assert (run.tally.wall_ns, run.cut) == (NS_PER_HOUR, True)


def test_pods_of_a_job_that_nobody_read_lower_the_coverage_of_the_whole() -> None:
    data = one(Amount(UJ_PER_KWH, 0, NS_PER_HOUR))
    (read,) = data.workloads.values()
    pods = [
        msgspec.structs.replace(
            read, id=WorkloadId("kubernetes", f"train-{n}.{n}"), gpu_count=1,
            evidence="pod-resources", extra={"owner": "Job/train"},
        )
        for n in range(4)
    ]  # fmt: skip
    posting = data.postings[0]._replace(subject=pods[0].id, evidence="pod-resources")
    (run,) = runs(
        msgspec.structs.replace(data, postings=(posting,), workloads={pod.id: pod for pod in pods})
    )
    assert run.tally.coverage == pytest.approx(1 / 4)


def test_coverage_of_a_shared_gpu_counts_its_gaps() -> None:
    t0_ns = T0_S * NS_PER_S
    gap = LostStretch("n1", GPU, "hung", t0_ns, t0_ns + NS_PER_HOUR // 2)
    half = Amount(UJ_PER_KWH, 0, NS_PER_HOUR // 4)  # half of it, for the half hour that was read
    (run,) = runs(one(half, Method.APPORTIONED, gaps=(gap,)))
    assert run.tally.coverage == pytest.approx(1 / 2)


def test_processes_hold_a_gpu_while_they_are_there() -> None:
    """A notebook that computed for a quarter of an hour is measured in full, but for gaps."""
    quarter = Amount(UJ_PER_KWH, 0, NS_PER_HOUR // 4)
    data = one(quarter)
    (row,) = data.postings
    data = msgspec.structs.replace(data, postings=(row._replace(evidence="processes"),))
    (run,) = runs(data)
    assert run.tally.coverage == 1
    t0_ns = T0_S * NS_PER_S
    gap = LostStretch("n1", GPU, "hung", t0_ns, t0_ns + NS_PER_HOUR // 2)
    (run,) = runs(msgspec.structs.replace(data, gaps=(gap,)))
    assert run.tally.coverage == pytest.approx(1 / 2)


def test_a_run_that_began_at_no_known_time_has_no_known_coverage() -> None:
    account = ReportData(
        "t", 0, 1 << 40, (Posting("n1", JOBS[0], GPU, T0_S, Amount(1), None, None),)
    )
    (run,) = runs(account)
    assert run.tally.coverage is None


def going_on(known_until_s: dict[str, int], *booked: tuple[str, int, int]) -> ReportData:
    """A run without an end; booked on (node, in which quarter hour, for how many seconds)."""
    running = ReportWorkload(JOBS[0], started_utc_ns=T0_S * NS_PER_S)
    postings = tuple(
        Posting(
            node, JOBS[0], GPU, T0_S + 900 * n, Amount(1, 0, held_s * NS_PER_S), Method.COUNTER, ""
        )
        for node, n, held_s in booked
    )
    return ReportData(
        "t", 0, 1 << 40, postings, workloads={JOBS[0]: running}, known_until_s=known_until_s
    )


def test_a_running_job_ends_where_the_books_of_its_node_do() -> None:
    (run,) = runs(going_on({"n1": T0_S + 1800}, ("n1", 0, 900), ("n1", 1, 900)))
    assert run.tally.coverage == 1
    (run,) = runs(going_on({"n1": T0_S + 1600}, ("n1", 0, 900), ("n1", 1, 300)))
    assert run.tally.coverage == pytest.approx(1200 / 1600)
    # What another node has reported since does not count against this one.
    account = going_on({"n1": T0_S + 1000, "n2": T0_S + 9000}, ("n1", 0, 900), ("n1", 1, 100))
    (run,) = runs(account)
    assert run.tally.coverage == 1
    (run,) = runs(going_on({"n2": T0_S + 9000}, ("n1", 0, 900)))
    assert run.tally.coverage is None


def test_a_run_whose_end_one_of_its_nodes_never_told_did_not_go_on_for_ever() -> None:
    a_year_on = {"n1": T0_S + 365 * 86_400, "n2": T0_S + 1200}  # n2 died under it
    account = going_on(a_year_on, ("n1", 0, 900), ("n1", 1, 400), ("n2", 0, 900), ("n2", 1, 300))
    (run,) = runs(account)
    assert run.tally.coverage == 1


def test_a_gpu_that_is_not_read_any_more_counts_while_its_run_goes_on() -> None:
    account = going_on({"n1": T0_S + 1800}, ("n1", 0, 900), ("n1", 1, 900))
    hung = Posting("n1", JOBS[0], Meter(Component.GPU, "GPU-1"), T0_S,
                   Amount(1, 0, 900 * NS_PER_S), Method.COUNTER, "")  # fmt: skip
    (run,) = runs(msgspec.structs.replace(account, postings=(*account.postings, hung)))
    assert run.tally.coverage == pytest.approx(2700 / 3600)


def test_facility_energy_is_by_node_and_quarter() -> None:
    def pue(node: str, value: int) -> UsedRate:
        used = RateUsed(T0_S, "pue", value, RATIO_PPM, "room", Quality.MEASURED)
        return UsedRate(used, UJ_PER_KWH, 0, node)

    postings = tuple(
        Posting(node, JOBS[0], GPU, T0_S, Amount(UJ_PER_KWH), Method.COUNTER, "prolog")
        for node in ("n1", "n2")
    )
    account = ReportData(
        "t", 0, 1 << 40, postings, rates=(pue("n1", PPM * 5 // 4), pue("n2", PPM * 3 // 2))
    )
    (run,) = runs(account)
    assert run.tally.facility_uj == UJ_PER_KWH * 11 // 4
    (lacking,) = runs(msgspec.structs.replace(account, rates=account.rates[:1]))
    assert lacking.tally.facility_uj is None
    assert lacking.tally.no_pue_uj == UJ_PER_KWH


def some_runs() -> ReportData:
    return ReportData(
        "t",
        0,
        1 << 40,
        tuple(
            Posting("n1", job, GPU, T0_S, Amount(UJ_PER_KWH), Method.COUNTER, "prolog")
            for job in JOBS
        ),
    )


def test_roles() -> None:
    found = runs(some_runs())
    states = {JOBS[0]: State.FAILED, JOBS[1]: State.COMPLETED}
    roles = sort_out(found, RoleChoice("slurm/1", (), {"3": "wrong data"}), states)
    assert roles.best == JOBS[1]
    assert roles.sweep == set(JOBS[:3])
    assert [roles.role(run) for run in found] == ["sweep", "best", "sweep", "excluded"]
    assert [roles.state(run) for run in found] == [
        State.FAILED,
        State.COMPLETED,
        State.UNKNOWN,
        State.UNKNOWN,
    ]
    assert roles.excluded == {JOBS[3]: "wrong data"}
    assert sort_out(found, RoleChoice("", ("*",)), {}).best is None
    (only,) = sort_out(found, RoleChoice("", ("2",)), {}).sweep
    assert sort_out(found, RoleChoice("", ("2",)), {}).best == only


@pytest.mark.parametrize("word", ["development", "Development", "DEVELOPMENT"])
def test_development_is_told_from_final_runs_in_any_case(word: str) -> None:
    choice = RoleChoice(stages={"1": word, "2": "SFT"})
    final = sort_out(runs(some_runs()), choice, {}).final
    assert final == frozenset({JOBS[2]})


@pytest.mark.parametrize(
    "choice", [RoleChoice("9"), RoleChoice("", ("9*",)), RoleChoice("", (), {"9": "no reason"})]
)
def test_a_name_that_is_no_run_is_refused(choice: RoleChoice) -> None:
    with pytest.raises(ValueError, match="matches no run"):
        sort_out(runs(some_runs()), choice, {})


def test_a_selection_takes_what_it_names() -> None:
    workload = ReportWorkload(JOBS[1], display="101_7", labels=Labels("ada", "nlp", "bert"))
    assert Selection().takes(workload)
    assert Selection(workloads=frozenset({"101_7"})).takes(workload)
    assert Selection(workloads=frozenset({"slurm/1"})).takes(workload)
    assert not Selection(users=frozenset({"ada"}), accounts=frozenset({"vision"})).takes(workload)


def test_the_pods_of_one_job_are_one_run() -> None:
    def pod(name: str, owner: str, account: str = "nlp") -> ReportWorkload:
        return ReportWorkload(
            WorkloadId("kubernetes", name),
            labels=Labels("", account, "llama"),
            started_utc_ns=T0_S * NS_PER_S,
            ended_utc_ns=T0_S * NS_PER_S + NS_PER_HOUR,
            gpu_count=1,
            extra={"owner": owner},
        )

    pods = (
        pod("llama-worker-0.0a1b2c3d", "PyTorchJob/llama"),
        pod("llama-worker-1.1a1b2c3d", "PyTorchJob/llama"),
        pod("llama-worker-0.2a1b2c3d", "PyTorchJob/llama", "vision"),
        pod("web-1.3a1b2c3d", "ReplicaSet/web"),
        pod("web-2.4a1b2c3d", "ReplicaSet/web"),
    )
    account = ReportData(
        "t",
        0,
        1 << 40,
        tuple(
            Posting(f"n{n}", each.id, GPU, T0_S, Amount(UJ_PER_KWH, 0, NS_PER_HOUR), None, None)
            for n, each in enumerate(pods)
        ),
        workloads={each.id: each for each in pods},
    )
    found = {run.workload.id.workload: run for run in runs(account)}
    assert found.keys() == {
        "nlp/PyTorchJob/llama", "vision/PyTorchJob/llama", "web-1.3a1b2c3d", "web-2.4a1b2c3d",
    }  # fmt: skip
    both = found["nlp/PyTorchJob/llama"]
    assert both.shown == "llama"
    assert both.nodes == ("n0", "n1")
    assert both.gpu_count == 2
    assert both.tally.energy_uj == 2 * UJ_PER_KWH
    assert both.tally.coverage == 1
