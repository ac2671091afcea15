"""Results and energy brought together: by what is said, else by what can be inferred, else not."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from joulebook.core.energy.readings import Component, Meter
from joulebook.core.evidence import Amount, Method, Remainder, Subject
from joulebook.core.money.amounts import Charge, Exact, Item
from joulebook.core.report.dataset import Charged, Posting, ReportData, ReportWorkload
from joulebook.core.report.leaderboard import ComparedMetric, Join
from joulebook.core.workloads import Labels, WorkloadId
from joulebook.lab.leaderboard.join import WithoutEnergy, by_experiment, by_run
from joulebook.lab.leaderboard.results import Result

ACCURACY = ComparedMetric("accuracy")
H = 3600 * 10**9
GPUS = {"a": "NVIDIA H100", "b": "NVIDIA A100"}


def workload(
    job: str, experiment: str, began_h: int = 0, ended_h: int | None = 1, **more: Any
) -> ReportWorkload:
    return ReportWorkload(
        WorkloadId("slurm", job), labels=Labels("ada", "nlp", experiment),
        started_utc_ns=H * (100 + began_h),
        ended_utc_ns=None if ended_h is None else H * (100 + ended_h),
        **more,
    )  # fmt: skip


def gpu(card: str) -> Meter:
    return Meter(Component.GPU, card)


def account(*workloads: tuple[ReportWorkload, int, str, str]) -> ReportData:
    """Of each: what it consumed in uJ, on which card and node."""
    remainder: Subject = Remainder.UNALLOCATED
    return ReportData(
        "ledger of n1", 0, 1 << 40,
        (
            *(
                Posting(node, w.id, gpu(card), 0, Amount(uj), Method.COUNTER, "prolog")
                for w, uj, card, node in workloads
            ),
            Posting("n1", remainder, gpu("a"), 0, Amount(7), Method.COUNTER, "none"),
        ),
        tuple(
            Charged(node, w.id, 0, Charge(Item.ELECTRICITY, "EUR"), Exact(0, uj))
            for w, uj, _, node in workloads
        ),
        {w.id: w for w, *_ in workloads},
        models={
            (node, gpu(card)): model
            for node in ("n1", "n2") for card, model in GPUS.items()
        },
    )  # fmt: skip


def result(experiment: str, run: str, value: str = "0.9", **more: object) -> Result:
    return Result(experiment, run, "accuracy", Fraction(value), **more)  # type: ignore[arg-type]


def test_by_run_id_on_all_nodes_and_after_requeues() -> None:
    job = workload("101", "bert")
    again = workload("101.r1", "bert")
    task = workload("205", "sweep", display="204_3")
    found = by_run(
        [result("bert", "101"), result("sweep", "204_3"), result("sweep", "slurm/205")],
        account(
            (job, 10, "a", "n1"), (job, 20, "a", "n2"), (again, 5, "a", "n1"),
            (task, 3, "b", "n1"),
        ),
    )  # fmt: skip
    assert [(e.energy_uj, e.gpu, e.join) for e in found.entrants] == [
        (35, "NVIDIA H100", Join.RUN),
        (3, "NVIDIA A100", Join.RUN),
        (3, "NVIDIA A100", Join.RUN),
    ]
    assert found.entrants[0].cost_nano == {"EUR": 35} and found.entrants[0].runs == 2
    assert "one job made 2 results" in found.entrants[1].hedge
    assert not found.left


def test_by_tag_and_by_the_jobs_own_name() -> None:
    job, other = workload("101", "bert", name="run-7"), workload("102", "bert", name="run-8")
    books = account((job, 10, "a", "n1"), (other, 20, "a", "n1"))
    tagged = result("bert", "0a1b2c", tags={"SLURM_JOB_ID": "102", "mlflow.user": "101"})
    found = by_run([tagged, result("bert", "run-7"), result("gpt", "run-7")], books)
    assert [(e.energy_uj, e.join) for e in found.entrants] == [(20, Join.TAG), (10, Join.TAG)]
    assert found.left[0].result.experiment == "gpt", "a name alone, of another experiment"


def test_time_and_host_are_marked_as_inferred_and_never_ambiguous() -> None:
    one, two = workload("1", "x", 0, 2), workload("2", "x", 4, 6)
    there = workload("3", "x", 4, 6)
    books = account((one, 10, "a", "n1"), (two, 20, "a", "n1"), (there, 30, "a", "n2"))

    def run(began_h: float, ended_h: float, **more: Any) -> Result:
        fields: dict[str, Any] = {"host": "n1.lab.example", **more}
        return result(
            "x", "0a1b", started_utc_ns=int(H * (100 + began_h)),
            ended_utc_ns=int(H * (100 + ended_h)), **fields,
        )  # fmt: skip

    found = by_run([run(0.1, 1.9)], books)
    assert [(e.energy_uj, e.join, e.inferred) for e in found.entrants] == [
        (10, Join.INFERRED, True)
    ]
    assert by_run([run(4.1, 5.9, host="n2")], books).entrants[0].energy_uj == 30

    def why(*results: Result, books: ReportData = books) -> list[str]:
        found = by_run(results, books)
        assert not found.entrants
        return [left.why for left in found.left]

    assert why(run(2.1, 3.9)) == ["no job has its id, and no job ran on n1 at that time"]
    assert why(run(0.1, 1.9, user="grace")) == [
        "no job has its id, and no job ran on n1 at that time"
    ]
    assert why(run(0.1, 0.3)) == ["no job has its id, and no job ran on n1 at that time"], "a part"
    assert why(run(0.1, 1.9, host="")) == ["no job has its id, and it has no host to infer it from"]
    beside = account((one, 10, "a", "n1"), (workload("9", "x", 0, 2), 1, "b", "n1"))
    assert why(run(0, 2), books=beside) == ["no job has its id, and 2 jobs ran on n1 at that time"]


def test_an_experiment_has_the_energy_of_all_its_runs_failed_ones_too() -> None:
    books = account(
        (workload("1", "bert"), 10, "a", "n1"), (workload("2", "bert"), 20, "a", "n1"),
        (workload("3", "bert", ended_h=None), 5, "a", "n1"), (workload("4", "gpt"), 40, "a", "n1"),
    )  # fmt: skip
    found = by_experiment(
        ACCURACY,
        [
            result("bert", "1", "0.8"),
            result("bert", "2", "0.9"),
            result("gpt", ""),
            result("t5", ""),
        ],
        books,
    )
    assert [(e.name, e.value, e.energy_uj, e.runs) for e in found.entrants] == [
        ("bert", Fraction("0.9"), 35, 3),
        ("gpt", Fraction("0.9"), 40, 1),
    ]
    assert "no end recorded" in found.entrants[0].hedge
    assert found.left == [
        WithoutEnergy(result("t5", ""), "no workload of experiment 't5' is recorded")
    ]


def test_two_models_of_gpu_are_a_hardware_of_their_own() -> None:
    job = workload("1", "bert")
    found = by_run([result("bert", "1")], account((job, 10, "a", "n1"), (job, 20, "b", "n2")))
    assert found.entrants[0].gpu == "NVIDIA A100 + NVIDIA H100"


def test_energy_that_came_with_the_result_is_taken_as_given() -> None:
    found = by_run([result("x", "1", energy_uj=42, gpu="NVIDIA H100")], account())
    assert [(e.energy_uj, e.join) for e in found.entrants] == [(42, Join.GIVEN)]
    both = [result("x", "1", "0.8", energy_uj=42), result("x", "2", "0.7", energy_uj=8)]
    assert by_experiment(ACCURACY, both, account()).entrants[0].energy_uj == 50
