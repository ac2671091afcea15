"""Numbers come again: which workloads of which nodes are one run, and which are not."""

from __future__ import annotations

import pytest

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Method
from joulebook.core.report.dataset import Posting, ReportData, ReportWorkload
from joulebook.core.report.parts import joined
from joulebook.core.report.run_roles import RoleChoice, State, sort_out
from joulebook.core.report.runs import Run, runs
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.units import NS_PER_S, UJ_PER_J

T0_S = 1_767_225_600
GPU = Meter(Component.GPU, "GPU-0")


def job(
    begin_s: int,
    end_s: int | None,
    user: str = "ada",
    number: str = "500",
    start: int | None = None,
    **more: object,
) -> ReportWorkload:
    return ReportWorkload(
        WorkloadId("slurm", number, T0_S + begin_s if start is None else start),
        labels=Labels(user, "nlp", "bert"),
        started_utc_ns=(T0_S + begin_s) * NS_PER_S,
        ended_utc_ns=None if end_s is None else (T0_S + end_s) * NS_PER_S,
        gpu_count=1,
        **more,  # type: ignore[arg-type]
    )


def ledger(node: str, *booked: tuple[ReportWorkload, int]) -> ReportData:
    """One node's: workloads and the J that each consumed, on a GPU of its own."""
    postings = tuple(
        Posting(node, each.id, Meter(Component.GPU, f"GPU-{n}"), T0_S // 900 * 900,
                Amount(joules * UJ_PER_J, 0, 8 * NS_PER_S), Method.COUNTER, "prolog")
        for n, (each, joules) in enumerate(booked)
    )  # fmt: skip
    return ReportData(node, 0, 1 << 40, postings, workloads={each.id: each for each, _ in booked})


def joules(found: tuple[Run, ...]) -> list[int]:
    return sorted(run.tally.energy_uj // UJ_PER_J for run in found)


def test_a_number_that_comes_again_on_one_node_is_two_runs() -> None:
    found = runs(ledger("n1", (job(0, 8), 1600), (job(20, 28, "bob"), 2400)))
    assert [(run.workload.labels.user, run.tally.energy_uj // UJ_PER_J) for run in found] == [
        ("ada", 1600), ("bob", 2400),
    ]  # fmt: skip
    # Of the same user too.
    assert joules(runs(ledger("n1", (job(0, 8), 1600), (job(20, 28), 2400)))) == [1600, 2400]


@pytest.mark.parametrize("user", ["ada", "bob"])
def test_a_number_that_comes_again_on_another_node_is_two_runs(user: str) -> None:
    both = joined([ledger("n1", (job(0, 8), 1600)), ledger("n2", (job(20, 28, user), 2400))])
    assert joules(runs(both)) == [1600, 2400]


@pytest.mark.parametrize("start", [None, 0])
def test_a_job_on_two_nodes_is_one_run(start: int | None) -> None:
    """Each node knows it from when it saw it, and one may not know whose it is."""
    first, second = job(0, 60, start=start), job(5, 61, "", start=start)
    both = joined([ledger("n1", (first, 1000)), ledger("n2", (second, 500))])
    (run,) = runs(both)
    assert run.tally.energy_uj == 1500 * UJ_PER_J
    assert run.nodes == ("n1", "n2")
    assert run.gpu_count == 2
    assert run.workload.labels.user == "ada"
    assert run.workload.started_utc_ns == T0_S * NS_PER_S
    assert run.workload.ended_utc_ns == (T0_S + 61) * NS_PER_S


@pytest.mark.parametrize("start", [None, 0])
def test_a_job_that_a_reboot_killed_on_one_node_ends_with_the_other(start: int | None) -> None:
    """The node that was restarted knows of no end; nor of one of the run that came after it."""
    lost = job(5, None, start=start)
    both = joined([ledger("n1", (job(0, 60, start=start), 1000)), ledger("n2", (lost, 500))])
    (run,) = runs(both)
    assert (run.tally.energy_uj, run.nodes) == (1500 * UJ_PER_J, ("n1", "n2"))
    assert run.workload.ended_utc_ns == (T0_S + 60) * NS_PER_S
    assert not run.running
    again = ledger("n1", (job(0, 60), 1000), (job(200, 260), 10))
    both = joined([again, ledger("n2", (job(5, None), 500), (job(203, None), 20))])
    assert joules(runs(both)) == [30, 1500]


def test_two_users_never_have_one_run_though_their_times_overlap() -> None:
    both = joined([ledger("a", (job(0, 60, start=0), 2000)),
                   ledger("b", (job(5, 65, "bob", start=0), 3004))])  # fmt: skip
    assert joules(runs(both)) == [2000, 3004]


def test_two_clusters_are_two_runs() -> None:
    both = joined(
        [
            ledger(node, (job(0, 60, start=0, cluster=cluster), burnt))
            for node, cluster, burnt in (("a", "east", 2000), ("b", "west", 3004))
        ]
    )
    assert joules(runs(both)) == [2000, 3004]


def test_the_schedulers_own_start_decides_where_it_is_known() -> None:
    def part(begin_s: int, start_s: int) -> ReportWorkload:
        return job(begin_s, begin_s + 60, scheduler_start_s=T0_S + start_s)

    # A Prolog may run hours after the allocation.
    one = joined([ledger("n1", (part(0, 0), 1)), ledger("n2", (part(7200, 0), 2))])
    assert joules(runs(one)) == [3]
    two = joined([ledger("n1", (part(0, 0), 1)), ledger("n2", (part(30, 25), 2))])
    assert joules(runs(two)) == [1, 2]


def test_of_two_runs_of_a_number_a_part_goes_to_the_one_it_ran_beside() -> None:
    first = ledger("n1", (job(0, 100), 1), (job(200, None), 10))
    second = ledger("n2", (job(3, 101), 2), (job(198, None), 20))
    assert joules(runs(joined([first, second]))) == [3, 30]


def test_components_of_a_heterogeneous_job_are_one_run() -> None:
    parts = [
        job(0, 60, number=str(2 + n), extra={"het_job_id": "2"}, display=f"2+{n}") for n in range(2)
    ]
    (run,) = runs(ledger("n1", *((part, 100) for part in parts)))
    assert run.shown == "2"
    assert run.tally.energy_uj == 200 * UJ_PER_J
    assert {"2", "2+0", "2+1", "3"} <= run.names


def test_a_run_that_shares_its_number_is_named_with_its_begin() -> None:
    found = runs(ledger("n1", (job(0, 8), 1600), (job(20, 28, "bob"), 2400)))
    with pytest.raises(ValueError, match=f"more than one run: 500@{T0_S}, 500@{T0_S + 20}"):
        sort_out(found, RoleChoice("500"), {})
    best = sort_out(found, RoleChoice(f"500@{T0_S + 20}"), {}).best
    (of_best,) = (run for run in found if run.workload.id == best)
    assert of_best.workload.labels.user == "bob"


def test_what_the_scheduler_told_of_an_end_is_known() -> None:
    (run,) = runs(ledger("n1", (job(0, 8, outcome="preempted"), 1600)))
    assert sort_out([run], RoleChoice(), {}).state(run) is State.PREEMPTED
    assert sort_out([run], RoleChoice(), {run.workload.id: State.COMPLETED}).state(run) is (
        State.COMPLETED
    )


def test_gpus_that_were_never_read_were_held() -> None:
    """Two cards for an hour, of which one was read for half of it: a quarter is known."""
    held = job(0, 3600)
    posting = Posting("n1", held.id, GPU, T0_S, Amount(1, 0, 1800 * NS_PER_S), Method.COUNTER, "")
    two = ReportWorkload(held.id, labels=held.labels, started_utc_ns=held.started_utc_ns,
                   ended_utc_ns=held.ended_utc_ns, gpu_count=2)  # fmt: skip
    (run,) = runs(ReportData("t", 0, 1 << 40, (posting,), workloads={held.id: two}))
    assert run.tally.wall_ns == 7200 * NS_PER_S
    assert run.tally.coverage == 0.25


def span(name: str, begin_s: int, end_s: int) -> ReportWorkload:
    number = f"span-7-100-{name}"
    each = job(begin_s, end_s, number=number)
    return ReportWorkload(
        WorkloadId("process", number), name=name, labels=each.labels,
        started_utc_ns=each.started_utc_ns, ended_utc_ns=each.ended_utc_ns, named=True,
    )  # fmt: skip


def test_the_windows_of_a_span_are_one_run_with_it() -> None:
    parts = ((span("1.ab", 0, 90), 5), (span("1.ab_2", 1, 10), 10), (span("1.ab_2_3", 2, 5), 20),
             (span("1.ab_4", 50, 60), 40), (span("5.ab", 10, 20), 80))  # fmt: skip
    one, other = runs(ledger("n1", *parts))
    assert (one.workload.id.workload, joules((one,))) == ("span-7-100-1.ab", [75])
    assert (other.workload.id.workload, joules((other,))) == ("span-7-100-5.ab", [80])
    assert "span-7-100-1.ab_2_3" in one.names
    # Also where nothing was booked outside of the windows.
    (alone,) = runs(ledger("n1", *parts[1:4]))
    assert (alone.workload.id.workload, joules((alone,))) == ("span-7-100-1.ab", [70])
    assert alone.workload.name == "bert"
