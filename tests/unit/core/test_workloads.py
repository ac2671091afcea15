"""What is known of a workload, and what a source that knows less cannot take away."""

from __future__ import annotations

from joulebook.core.workloads import Labels, WorkloadFacts, WorkloadId, merged

ID = WorkloadId("slurm", "301")
KNOWN = WorkloadFacts(
    ID,
    display="300_1",
    name="train",
    labels=Labels("ada", "nlp", "bert-large"),
    started_ns=5,
    complete=True,
    gpu_count=2,
    evidence="gpustat",
    extra={"partition": "a100"},
)


def test_a_source_that_forgot_everything_changes_nothing() -> None:
    assert merged(KNOWN, WorkloadFacts(ID)) == KNOWN
    only_its_name = WorkloadFacts(ID, labels=Labels(experiment="301"))
    assert merged(KNOWN, only_its_name) == KNOWN


def test_what_is_new_is_taken() -> None:
    told = WorkloadFacts(
        ID, labels=Labels(experiment="bert-xl"), ended_ns=9, extra={"qos": "high", "partition": ""}
    )
    now = merged(KNOWN, told)
    assert now.labels == Labels("ada", "nlp", "bert-xl")
    assert now.ended_ns == 9
    assert now.extra == {"partition": "a100", "qos": "high"}


def test_a_workloads_own_name_is_better_than_nothing() -> None:
    nothing = WorkloadFacts(ID)
    named = WorkloadFacts(ID, labels=Labels(experiment="301"))
    assert merged(nothing, named).labels.experiment == "301"
