"""What is known of a workload, and what a source that knows less cannot take away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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
    reported = WorkloadFacts(
        ID, labels=Labels(experiment="bert-xl"), ended_ns=9, named=True, stage="eval",
        outcome="failed", scheduler_start_s=7, extra={"qos": "high", "partition": ""},
    )  # fmt: skip
    now = merged(KNOWN, reported)
    assert now.labels == Labels("ada", "nlp", "bert-xl")
    assert now.ended_ns == 9
    assert now.extra == {"partition": "a100", "qos": "high"}
    assert (now.named, now.stage, now.outcome, now.scheduler_start_s) == (True, "eval", "failed", 7)


def test_a_workloads_own_name_is_better_than_nothing() -> None:
    nothing = WorkloadFacts(ID)
    named = WorkloadFacts(ID, labels=Labels(experiment="301"))
    assert merged(nothing, named).labels.experiment == "301"


def named(experiment: str, *, given: bool = False, complete: bool = False) -> WorkloadFacts:
    return WorkloadFacts(ID, labels=Labels("", "", experiment), named=given, complete=complete)


def test_a_derived_name_never_replaces_one_that_was_given() -> None:
    given = named("bert", given=True)
    now = merged(given, named("sessions"))
    assert (now.labels.experiment, now.named) == ("bert", True)
    now = merged(named("sessions", complete=True), given)
    assert (now.labels.experiment, now.named) == ("bert", True)


def test_a_name_stays_once_the_labels_are_complete() -> None:
    # Also of a ledger that does not know yet which names were given.
    for by_hand in (False, True):
        known, reported = named("bert", given=by_hand, complete=True), named("gpt", given=by_hand)
        assert merged(known, reported).labels.experiment == "bert"
        assert merged(named("bert", given=by_hand), reported).labels.experiment == "gpt"


def test_the_owner_never_changes() -> None:
    reported = WorkloadFacts(ID, labels=Labels("bob", "cv"))
    assert merged(KNOWN, reported).labels[:2] == ("ada", "nlp")
    assert merged(WorkloadFacts(ID), reported).labels[:2] == ("bob", "cv")


TIMES = st.integers(0, 50)
FACTS = st.builds(
    WorkloadFacts,
    st.just(ID),
    labels=st.builds(Labels, *[st.sampled_from(["", "a", "b", "301"])] * 3),
    started_ns=TIMES,
    ended_ns=st.none() | TIMES,
    complete=st.booleans(),
    named=st.booleans(),
    scheduler_start_s=TIMES,
)


@given(st.lists(FACTS, min_size=1, max_size=6))
def test_no_begin_moves_later_and_no_row_ends_before_it_begins(
    reported: list[WorkloadFacts],
) -> None:
    known = WorkloadFacts(ID)
    for facts in reported:
        now = merged(known, facts)
        begins = [t for t in (known.started_ns, facts.started_ns) if t]
        assert now.started_ns == min(begins, default=0)
        assert now.ended_ns is None or now.ended_ns >= now.started_ns
        for before, after in zip(known.labels[:2], now.labels[:2], strict=True):
            assert after == before or not before
        assert now.named >= (known.named and bool(known.labels.experiment))
        assert merged(now, facts) == now
        known = now


def test_what_begins_after_its_end_goes_on() -> None:
    over = merged(KNOWN, WorkloadFacts(ID, ended_ns=9))
    assert merged(over, WorkloadFacts(ID, started_ns=9)).ended_ns == 9
    again = merged(over, WorkloadFacts(ID, started_ns=10))
    assert (again.started_ns, again.ended_ns) == (KNOWN.started_ns, None)
