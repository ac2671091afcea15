from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.core.experiments import (
    DEFAULT_RULES,
    Choice,
    choose,
    chosen,
    decided,
    is_rule,
    stage_of,
)


@pytest.mark.parametrize(
    ("sources", "experiment"),
    [
        ({"comment": "experiment=bert-base", "env:WANDB_PROJECT": "w"}, "bert-base"),
        ({"comment": 'note; experiment="two words", x', "job_name": "j"}, "two words"),
        ({"comment": "myexperiment=no", "job_name": "train_3"}, "train"),
        ({"comment": "experiment=", "job_name": "train"}, "train"),
        ({"env:JOULEBOOK_EXPERIMENT": "a", "env:WANDB_PROJECT": "b"}, "a"),
        ({"env:WANDB_RUN_GROUP": "g", "env:WANDB_SWEEP_ID": "s"}, "g"),
        ({"env:MLFLOW_EXPERIMENT_NAME": "m", "wckey": "k"}, "m"),
        ({"wckey": "k", "job_name": "n"}, "k"),
        ({"job_name": "", "workload": "101"}, "101"),
        ({"label:joulebook.io/experiment": "l", "comment": "experiment=c"}, "l"),
        ({"label:ray.io/cluster": "r", "label:app.kubernetes.io/part-of": "p"}, "r"),
        ({}, ""),
    ],
)
def test_the_first_rule_that_finds_a_name_wins(sources: dict[str, str], experiment: str) -> None:
    assert choose(DEFAULT_RULES, sources) == experiment


@pytest.mark.parametrize(
    ("job_name", "experiment"),
    [
        ("sweep_17", "sweep"),
        ("sweep-3_4", "sweep"),
        ("sweep[1-9]", "sweep"),
        ("resnet50", "resnet50"),
        ("lr1e-4.x", "lr1e-4.x"),
        ("_7", "_7"),
        ("17", "17"),
        ("nightly-20261130", "nightly"),
        ("nightly-2026-11-30", "nightly"),
        ("nightly_2026.11.30", "nightly"),
        ("nightly20261130", "nightly"),
        ("nightly-20261130-0215", "nightly"),
        ("nightly-2026-11-30T02:15:00", "nightly"),
        ("nightly-20261130_3", "nightly"),
        ("nightly-eval-29933747", "nightly-eval"),
        ("nightly-1764496800123", "nightly"),
        ("20261130-nightly", "nightly"),
        ("2026-11-30_nightly_7", "nightly"),
        ("20261130T101112-gpt-2", "gpt-2"),
        ("20261130", "20261130"),
        ("20261130-1", "20261130"),
        ("net-v1.2.3", "net-v1.2.3"),
        ("resnet-50", "resnet-50"),
        ("resnet-18", "resnet-18"),
        ("gpt-2-20261130", "gpt-2"),
        ("resnet-50_3", "resnet"),
        ("llama-3.1", "llama-3.1"),
        ("qwen2.5", "qwen2.5"),
        ("sweep-017", "sweep"),
        ("run.7", "run"),
    ],
)
def test_a_job_name_loses_its_index_but_never_all_of_it(job_name: str, experiment: str) -> None:
    assert choose(["job_name"], {"job_name": job_name}) == experiment


@pytest.mark.parametrize(
    "name",
    [
        "(overflow)",
        "(expired)",
        "(unallocated)",
        " (Other) ",
        "\u200b(expired)",
        "(over\u00adflow)\ufeff",
        "\u200b",
    ],
)
def test_a_name_in_brackets_is_nobodys(name: str) -> None:
    sources = {"annotation:joulebook.io/experiment": name, "env:JOULEBOOK_EXPERIMENT": name,
               "comment": f"experiment={name}", "wckey": name, "job_name": name,
               "workload": "101"}  # fmt: skip
    assert choose(DEFAULT_RULES, sources) == "101"
    assert choose(DEFAULT_RULES, {"wckey": "bert (large)"}) == "bert (large)"


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("annotation:joulebook.io/experiment", True),
        ("label:joulebook.io/experiment", True),
        ("env:WANDB_PROJECT", True),
        ("wckey", True),
        ("label:ray.io/cluster", False),
        ("owner", False),
        ("job_name", False),
        ("workload", False),
    ],
)
def test_whether_a_person_gave_the_name(rule: str, named: bool) -> None:
    assert chosen(DEFAULT_RULES, {rule: "x"}) == Choice("x", rule)
    assert Choice("x", rule).named is named
    assert Choice("x", "comment").named
    assert not Choice().named


def test_an_owner_tells_more_than_its_jobs_name() -> None:
    sources = {"owner": "nightly", "label:batch.kubernetes.io/job-name": "nightly-29933747",
               "label:kueue.x-k8s.io/queue-name": "q"}  # fmt: skip
    assert choose(DEFAULT_RULES, sources) == "nightly"


def test_the_order_is_a_setting() -> None:
    sources = {"comment": "experiment=c", "wckey": "k"}
    assert choose(["wckey", "comment"], sources) == "k"
    assert all(is_rule(rule) for rule in DEFAULT_RULES)
    assert not any(is_rule(rule) for rule in ("env:", "user", "annotation", "", "label"))


def test_it_is_decided_when_nothing_pending_comes_first() -> None:
    pending = frozenset({"env:WANDB_PROJECT"})
    assert decided(DEFAULT_RULES, {"comment": "experiment=c"}, pending)
    assert not decided(DEFAULT_RULES, {"job_name": "n"}, pending)
    assert decided(DEFAULT_RULES, {"job_name": "n"}, frozenset())


@given(st.dictionaries(st.sampled_from(DEFAULT_RULES), st.text(max_size=50)))
def test_any_text_is_taken_without_a_fault(sources: dict[str, str]) -> None:
    assert isinstance(choose(DEFAULT_RULES, sources), str)


@pytest.mark.parametrize(
    ("sources", "stage"),
    [
        ({"comment": "experiment=bert stage=SFT"}, "SFT"),
        ({"comment": 'stage="mid-training";experiment=x'}, "mid-training"),
        ({"comment": "backstage=no"}, ""),
        ({"env:JOULEBOOK_STAGE": " evaluation\n"}, "evaluation"),
        ({"annotation:joulebook.io/stage": "RL", "label:joulebook.io/stage": "SFT"}, "RL"),
        ({"label:joulebook.io/stage": "(all)", "comment": "stage=RL"}, "RL"),
        ({"job_name": "stage=RL"}, ""),
    ],
)
def test_the_author_states_the_stage_of_a_run(sources: dict[str, str], stage: str) -> None:
    assert stage_of(sources) == stage
