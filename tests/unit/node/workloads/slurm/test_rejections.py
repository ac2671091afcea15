from __future__ import annotations

import pytest

from joulebook.core.attribution.claims import Evidence
from joulebook.errors import InputError
from joulebook.log import MAX_REASONS
from joulebook.node.workloads.contract import Rejections
from joulebook.node.workloads.slurm.claims import unmapped
from joulebook.node.workloads.slurm.job import Job, JobGrant


def test_each_refusal_is_logged_once_and_so_many_at_most(caplog: pytest.LogCaptureFixture) -> None:
    refuse = Rejections()
    for _ in range(3):
        refuse(InputError("101.0.json: gpus[0] = 0", reason="bad_field"))
    refuse(InputError("102.0.json: user = 7", reason="bad_field"))
    assert [r.getMessage().split(" (")[0] for r in caplog.records] == [
        "rejected: 101.0.json: gpus[0] = 0",
        "rejected: 102.0.json: user = 7",
    ]
    for n in range(100):
        refuse(InputError(f"{n}.0.json", reason="bad_field"))
    assert len(caplog.records) == MAX_REASONS
    assert "further ones of this kind are only counted" in caplog.text
    refuse(InputError("101.0.json", reason="symlink"))
    assert len(caplog.records) == MAX_REASONS + 1
    refuse.count("late")
    assert refuse.counts() == {"bad_field": 104, "symlink": 1, "late": 1}


def test_a_fault_of_ours_is_logged_once_with_where_it_was(caplog: pytest.LogCaptureFixture) -> None:
    refuse = Rejections()
    for _ in range(3):
        for what in ("asking failed", "watching failed"):
            try:
                raise ZeroDivisionError(what)
            except ZeroDivisionError:
                refuse.fault(what)
    assert refuse.counts() == {"fault": 6}
    said = [
        (record.getMessage().split(" (")[0], bool(record.exc_info)) for record in caplog.records
    ]
    assert said == [("asking failed", True), ("watching failed", True)]


def test_what_is_said_of_a_gpu_that_nobody_knows() -> None:
    grant = JobGrant(Evidence.PROLOG, "n1", ("0", "1"), 0)
    said = unmapped(Job("101", 0), grant, ["0"], "n1", "/etc/gres.conf nor slurmd -G")
    assert said.reason == "gres_unknown"
    assert "/etc/gres.conf" in str(said) and "tenants.slurm.gres_conf" in str(said)
    assert "101" not in str(said), "the same for all jobs, so that it is logged once"
    said = unmapped(Job("101", 0), grant, ["0", "1"], "n1", "")
    assert said.reason == "gpu_unknown" and "job 101 holds GPUs 0, 1" in str(said)
