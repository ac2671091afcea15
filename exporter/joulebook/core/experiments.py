"""Find the experiment of a workload: the first rule that finds a name wins.

A rule is the name of a source. Workload sources provide cleaned values under these names, and leave
out what they do not know:

    annotation:KEY, label:KEY   an annotation or label of a pod
    comment                     the SLURM job comment; `experiment=NAME` in it counts
    env:NAME                    a variable of the job's environment (only names on the allow-list)
    wckey                       SLURM's workload characterisation key
    job_name                    the SLURM job name, less array, trailing index and date
    owner                       the controller that owns the pod
    workload                    the workload's own name
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from joulebook.core.sanitize import clean_label
from joulebook.core.workloads import is_reserved

ENVIRONMENT = (
    "JOULEBOOK_EXPERIMENT",
    "WANDB_PROJECT",
    "WANDB_RUN_GROUP",
    "WANDB_SWEEP_ID",
    "MLFLOW_EXPERIMENT_NAME",
)
"""The variables that name an experiment; no others are ever read for it."""

STAGE_VARIABLE = "JOULEBOOK_STAGE"

VARIABLES = (*ENVIRONMENT, STAGE_VARIABLE)
"""All variables that are read of a workload's environment."""

STAGE_RULES = (
    "annotation:joulebook.io/stage",
    "label:joulebook.io/stage",
    "comment",
    f"env:{STAGE_VARIABLE}",
)
"""Where the author of a run states its stage; the first match wins."""

POD_LABELS = (
    "training.kubeflow.org/job-name",
    "jobset.sigs.k8s.io/jobset-name",
    "leaderworkerset.sigs.k8s.io/name",
    "volcano.sh/job-name",
    "ray.io/originated-from-cr-name",
    "ray.io/cluster",
    "workflows.argoproj.io/workflow",
    "kueue.x-k8s.io/pod-group-name",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/instance",
)
"""Labels that training operators and packagers put on pods, the most specific first.

A TrainJob of Kubeflow's trainer runs as a JobSet of its name.
"""

FALLBACK_LABELS = ("batch.kubernetes.io/job-name", "job-name", "kueue.x-k8s.io/queue-name")
"""Labels less specific than the pod's owner. Kueue's queue comes last: it may be all that a lone
pod has, but is shared by jobs of many experiments.
"""

DEFAULT_RULES: tuple[str, ...] = (
    "annotation:joulebook.io/experiment",
    "label:joulebook.io/experiment",
    "comment",
    *(f"env:{name}" for name in ENVIRONMENT),
    *(f"label:{name}" for name in POD_LABELS),
    "owner",
    *(f"label:{name}" for name in FALLBACK_LABELS),
    "wckey",
    "job_name",
    "workload",
)
"""The order of `docs/experiments.md`; `[experiments] rules` replaces it."""

_IN_COMMENT = {
    word: re.compile(rf"""(?:^|[\s;,]){word}=(?:"([^"]*)"|'([^']*)'|([^\s;,]+))""")
    for word in ("experiment", "stage")
}
_DAY = (
    r"(?:19|20)\d\d(?P<{0}>[-_.]?)(?:0[1-9]|1[0-2])(?P={0})(?:0[1-9]|[12]\d|3[01])"
    r"(?:[-_.T ]?[0-2]\d[-_.:h]?[0-5]\d(?:[-_.:]?[0-5]\d)?Z?)?"
)
_DATE = re.compile(rf"^{_DAY.format('first')}[-_. ](?=.*[^\W\d_])|[-_.]?{_DAY.format('last')}$")
_INDEX = re.compile(r"(?:[-_.#]\d{1,20}|\[[\d,:%-]+\])+$")
_PART_OF_NAME = re.compile(r"(?:[^\W\d_]-[1-9]\d?|(?:[^\W\d_]|[-_])\d{1,3}(?:\.\d{1,4}){1,2})$")
"""`resnet-50`, `llama-3.1`: such numbers distinguish models, not runs."""

_GIVEN = {"comment", "wckey", "label:joulebook.io/experiment"}
_SIMPLE = {"comment", "wckey", "job_name", "owner", "workload"}


def is_rule(name: str) -> bool:
    """Return whether `name` may stand in `[experiments] rules`."""
    kind, colon, key = name.partition(":")
    return name in _SIMPLE or (bool(colon) and bool(key) and kind in {"annotation", "label", "env"})


class Choice(NamedTuple):
    """The name of an experiment, and the rule that found it; both empty if unknown."""

    name: str = ""
    rule: str = ""

    @property
    def named(self) -> bool:
        """Return whether a person gave the name; otherwise it is derived."""
        return self.rule in _GIVEN or self.rule.partition(":")[0] in {"annotation", "env"}


def chosen(rules: Sequence[str], sources: Mapping[str, str]) -> Choice:
    """Return the experiment by the first of `rules` with a value in `sources`."""
    for rule in rules:
        name = _named(rule, sources.get(rule, ""))
        if name:
            return Choice(name, rule)
    return Choice()


def choose(rules: Sequence[str], sources: Mapping[str, str]) -> str:
    """Return the name alone of what is `chosen`."""
    return chosen(rules, sources).name


def stage_of(sources: Mapping[str, str]) -> str:
    """Return the stage of a run as its author stated it; empty: not stated."""
    for rule in STAGE_RULES:
        value = sources.get(rule, "")
        stated = clean_label(_in_comment("stage", value) if rule == "comment" else value)
        if stated and not is_reserved(stated):
            return stated
    return ""


def decided(rules: Sequence[str], sources: Mapping[str, str], pending: frozenset[str]) -> bool:
    """Return whether no `pending` rule (which may still get a value) could change `choose`."""
    for rule in rules:
        if rule in pending:
            return False
        if _named(rule, sources.get(rule, "")):
            return True
    return True


def _named(rule: str, value: str) -> str:
    # After cleaning, a name must be neither empty nor reserved.
    name = clean_label(_said(rule, value))
    return "" if is_reserved(name) else name


def _said(rule: str, value: str) -> str:
    if rule == "comment":
        return _in_comment("experiment", value)
    if rule == "job_name":
        return _stem(value.strip())
    return value.strip()


def _in_comment(word: str, comment: str) -> str:
    found = _IN_COMMENT[word].search(comment)
    return next((g.strip() for g in found.groups() if g), "") if found else ""


def _stem(name: str) -> str:
    """Return a job's name without what distinguishes its runs (a date, an index); never empty."""
    name = _DATE.sub("", name).strip() or name
    return name if _PART_OF_NAME.search(name) else _INDEX.sub("", name).strip() or name
