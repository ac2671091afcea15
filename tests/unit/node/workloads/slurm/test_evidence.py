"""The rows of SLURM in docs/evidence.md, one by one: files, cgroups and a scontrol script."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.unit.node.workloads.slurm.slurm_world import World

from joulebook.core.attribution.claims import Evidence
from joulebook.node.workloads.contract import Before
from joulebook.node.workloads.slurm import labels, scontrol, tracker
from joulebook.units import NS_PER_S


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(scontrol, "_PAUSE_MAX_S", 0.05)
    for name, value in (("_NO_EPILOG_S", 0.1), ("_VANISHED_S", 0.05)):
        monkeypatch.setattr(tracker, name, value)
    monkeypatch.setattr(labels, "SLOW_S", (0.6,))
    world = World(tmp_path)
    world.open()
    yield world
    world.close()


def cards(world: World, job: str | None) -> list[str]:
    return sorted(c.meter.name for c in world.claims().get(job, []) if c.t1_ns is None)


def ended(world: World, job: str) -> int | None:
    closed = [c.t1_ns for c in world.claims().get(job, []) if c.t1_ns is not None]
    return closed[0] if closed else None


def run(world: World, job: str, **env: str) -> Path:
    """A job with a process, and a cgroup that was seen."""
    group = world.cgroup(job, pids=[world.process(job, **env)])
    world.until(lambda: world.cgroup_is_known(job))
    return group


# -- the environment: everything of it is handed on by sbatch


@pytest.mark.parametrize("hooked", [True, False])
def test_an_array_is_believed_where_the_controller_confirms_it(world: World, hooked: bool) -> None:
    for job, array in (("8", ""), ("9", "ArrayJobId=1 ArrayTaskId=2 ")):
        world.record(job, array=array, name="child", gres="gpu:1(IDX:0)")
        if hooked:
            world.prolog(job, "0")
        run(
            world, job, SLURM_ARRAY_JOB_ID="1", SLURM_ARRAY_TASK_ID="1", SLURM_RESTART_COUNT="7",
            SLURM_JOB_NAME="parent",
        )  # fmt: skip
    world.until(lambda: world.poll() and {"8", "9"} <= world.facts.keys())
    world.until(lambda: world.poll() and all(world.facts[j].name == "child" for j in ("8", "9")))
    assert [world.facts[j].display for j in ("8", "9")] == ["", "1_2"]
    assert not any("r7" in workload for workload in world.facts)
    assert world.facts["8"].labels.user == "ada"


@pytest.mark.parametrize("hooked", [True, False])
def test_a_component_of_a_heterogeneous_job_is_shown_as_slurm_shows_it(
    world: World, hooked: bool
) -> None:
    world.record("9", array="HetJobId=8 HetJobOffset=1 ", name="pair\n   HetJobIdSet=8-9")
    if hooked:
        world.prolog("9", "0", het_job_id=8)
    world.cgroup("9")
    world.until(lambda: world.poll() and "9" in world.facts and world.facts["9"].display)
    fact = world.facts["9"]
    assert (fact.display, fact.name, fact.extra["het_job_id"]) == ("8+1", "pair", "8")


def test_a_label_file_makes_nobody_a_task_of_an_array(world: World) -> None:
    labels = world.events / "labels"
    labels.mkdir()
    (labels / f"8.{os.getuid()}.json").write_text(
        '{"SLURM_JOB_NAME":"x","SLURM_ARRAY_JOB_ID":"1","SLURM_ARRAY_TASK_ID":"1"}'
    )
    world.record("8")
    world.prolog("8", "0")
    world.until(lambda: world.poll() and "8" in world.facts and world.facts["8"].complete)
    assert world.facts["8"].display == ""


def test_a_name_exported_late_reaches_the_ledger(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "_LATE_S", 0.9)
    monkeypatch.setattr(tracker, "SETTLED_S", 0.7)
    world.record("8", name="plain")
    world.prolog("8", "0")
    group = run(world, "8")
    world.until(lambda: world.poll() and "8" in world.facts and world.facts["8"].name == "plain")
    assert (world.facts["8"].labels.experiment, world.facts["8"].named) == ("plain", False)
    late = world.process("8", JOULEBOOK_EXPERIMENT="late")
    with (group / "step_batch" / "cgroup.procs").open("a") as file:
        file.write(f"{late}\n")
    world.until(lambda: world.poll() and world.facts["8"].labels.experiment == "late")
    assert world.facts["8"].named


def test_a_wckey_names_an_experiment_with_hooks_too(world: World) -> None:
    world.record("8", wckey="*paper", name="x")
    world.prolog("8", "0")
    world.until(lambda: world.poll() and "8" in world.facts and world.facts["8"].complete)
    assert world.facts["8"].labels.experiment == "paper"


@pytest.mark.parametrize("hooked", [True, False])
def test_that_a_job_holds_no_gpu_is_known_too(world: World, hooked: bool) -> None:
    world.record("8", gres="", total="(null)")
    if hooked:
        world.prolog("8")
    world.cgroup("8")
    world.until(lambda: world.poll() and "8" in world.facts and world.facts["8"].evidence)
    assert (world.facts["8"].gpu_count, world.facts["8"].evidence) == (
        0, "prolog" if hooked else "scontrol"
    )  # fmt: skip


def test_accounts_keep_their_spaces(world: World) -> None:
    for job, account in (("8", "phys lab"), ("9", "phys ada")):
        world.record(job, account=account, gres="gpu:1(IDX:0)")
        world.cgroup(job)
    world.until(lambda: world.poll() and {"8", "9"} <= world.facts.keys())
    assert [world.facts[j].labels.account for j in ("8", "9")] == ["phys lab", "phys ada"]


# -- an end that no Epilog tells


def test_the_controller_is_asked_until_it_says_that_a_job_is_over(world: World) -> None:
    world.record("8", state="RUNNING")
    world.record("9", state="RUNNING")
    for job in ("8", "9"):
        world.prolog(job, job[0].replace("8", "0").replace("9", "1"))
        group = run(world, job)
        world.cgroup_gone(group)
    gone_ns = world.clock.now_ns()
    (world.path / "silent").touch()
    world.until(lambda: "controller_silent" in world.poll().rejected)
    assert (cards(world, "8"), cards(world, "9")) == (["GPU-0"], ["GPU-1"])
    world.record("8", state="COMPLETING")
    (world.path / "silent").unlink()
    end_ns = world.until(lambda: ended(world, "8"))
    assert end_ns < gone_ns, "when its processes were gone"
    assert cards(world, "9") == ["GPU-1"], "it only waits for its next step"
    world.record("9", state="FAILED")
    world.until(lambda: ended(world, "9"))
    world.until(lambda: world.poll() and not list(world.events.iterdir()))


def test_a_job_that_never_had_processes_ends_when_the_controller_says(world: World) -> None:
    start = time.time_ns() - 60 * NS_PER_S
    world.prolog("8", "0", start_ns=start)
    world.prolog("9", "1", start_ns=start)
    end_s = int(time.time()) - 30
    end = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(end_s))
    world.record("8", state="COMPLETED", end=end)
    world.record("9", state="COMPLETING")
    end_ns = world.until(lambda: ended(world, "8"))
    assert abs(end_ns + world.clock.utc_offset_ns() - end_s * NS_PER_S) < NS_PER_S
    assert cards(world, "9") == ["GPU-1"], "its Prolog may run still"


@pytest.mark.parametrize("private", ["jobs", "none"])
def test_invalid_proves_nothing_where_jobs_are_kept_from_us(
    world: World, monkeypatch: pytest.MonkeyPatch, private: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4242)
    (world.path / "config").write_text(f"PrivateData             = {private}\n")
    world.events.chmod(0o755)
    os.chown(world.events, 0, 0)
    world.restart()
    world.prolog("8", "0")
    if private == "none":
        world.until(lambda: ended(world, "8"))
        return
    world.until(lambda: len(world.questions()) > 4)
    assert cards(world, "8") == ["GPU-0"]
    group = run(world, "8")
    world.until(lambda: any(job.extern for job in world.tenants._table))
    world.cgroup_gone(group)
    world.until(lambda: ended(world, "8"))


def test_a_job_thought_over_comes_back_with_its_processes(world: World) -> None:
    world.record("8", state="COMPLETED")
    world.prolog("8", "0", "1")
    end_ns = world.until(lambda: ended(world, "8"))
    world.poll()
    world.record("8", state="RUNNING")
    group = run(world, "8")
    again = world.until(lambda: [c for c in world.claims().get("8", []) if c.t1_ns is None])
    assert {c.meter.name for c in again} == {"GPU-0", "GPU-1"}
    assert all(c.t0_ns > end_ns and c.evidence is Evidence.PROLOG for c in again)
    world.until(lambda: world.poll() and world.facts["8"].ended_ns is None)
    assert world.facts["8"].labels.user == "ada"
    world.cgroup_gone(group)
    world.until(lambda: ended(world, "8"))


def test_files_swept_away_end_no_job_whose_processes_live(world: World) -> None:
    world.record("8")
    world.prolog("8", "0")
    group = run(world, "8")
    (world.events / "8.0.json").unlink()
    world.prolog("9", "1")
    world.until(lambda: cards(world, "9"))
    assert cards(world, "8") == ["GPU-0"]
    world.restart(forget=False)
    world.until(lambda: cards(world, "8") == ["GPU-0"])
    gone_ns = world.clock.now_ns()
    world.cgroup_gone(group)
    assert world.until(lambda: ended(world, "8")) >= gone_ns


# -- without hooks


def test_a_controller_that_does_not_answer_is_asked_again(world: World) -> None:
    (world.path / "silent").touch()
    group = world.cgroup("8")
    world.until(lambda: world.poll().rejected.get("controller_silent", 0) > 3)
    held = world.poll()
    assert held.claims == () and Evidence.SCONTROL not in held.complete
    assert world.facts == {}, "nobody assumes which run of the job it is"
    world.record("8", restarts=2, gres="gpu:1(IDX:3)")
    (world.path / "silent").unlink()
    world.until(lambda: cards(world, "8.r2") == ["GPU-3"])
    assert Evidence.SCONTROL in world.poll().complete
    assert world.facts["8.r2"].labels.user == "ada"
    world.cgroup_gone(group)


def test_an_answer_after_the_end_still_counts(world: World) -> None:
    (world.path / "delay").write_text("0.3")
    world.record("7", gres="gpu:1(IDX:0)")
    world.record("8", gres="gpu:1(IDX:2)")
    world.record("9", gres="", total="gpu:a100:1", state="COMPLETED")
    world.cgroup_gone(run(world, "7"))
    for job in ("8", "9"):
        world.cgroup_gone(run(world, job))
    world.until(lambda: ended(world, "8"))
    (claim,) = world.claims()["8"]
    assert claim.meter.name == "GPU-2" and claim.t1_ns is not None
    unknown = world.until(lambda: world.claims().get(None))
    assert {c.meter.name for c in unknown} >= {"GPU-1", "GPU-3"}
    assert all(c.t1_ns is not None for c in unknown)
    assert world.poll().rejected == {"gpu_unknown": 1}
    world.until(lambda: world.poll() and "9" in world.facts)
    assert world.facts["9"].labels.user == "ada"
    assert len(world.questions()) <= 3, "one answer for all who wait"


def test_without_slurms_own_step_all_steps_are_one_run(world: World) -> None:
    world.record("8", gres="gpu:1(IDX:2)")
    for _ in range(2):
        group = world.cgroup("8", pids=[world.process("8")], extern=False)
        world.until(lambda: cards(world, "8") == ["GPU-2"])
        world.cgroup_gone(group)
        world.until(lambda: cards(world, "8") == [])
    assert len({c.workload for c in world.claims()["8"]}) == 1
    first, second = sorted(world.claims()["8"], key=lambda c: c.t0_ns)
    assert first.t1_ns is not None and first.t1_ns < second.t0_ns
    world.poll()
    assert abs(world.facts["8"].started_ns - first.t0_ns) == 0


def test_one_that_cannot_be_placed_takes_nothing_from_those_that_are_known(world: World) -> None:
    world.record("7", gres="gpu:1(IDX:0)")
    run(world, "7")
    world.until(lambda: cards(world, "7") == ["GPU-0"])
    world.record("9", gres="", total="gpu:a100:1", state="COMPLETED")
    world.cgroup_gone(run(world, "9"))
    unknown = world.until(lambda: world.claims().get(None))
    assert {c.meter.name for c in unknown} == {"GPU-1", "GPU-2", "GPU-3"}


# -- over a restart of the daemon


@pytest.mark.parametrize("hooked", [True, False])
def test_what_the_ledger_held_goes_on_whoever_is_silent(world: World, hooked: bool) -> None:
    world.record("8", restarts=1, gres="gpu:1(IDX:1)")
    if hooked:
        world.prolog("8", "1", restart_count=1)
    group = run(world, "8")
    world.until(lambda: world.poll() and "8.r1" in world.facts and world.facts["8.r1"].complete)
    before, (claim,) = world.facts["8.r1"], world.claims()["8.r1"]
    (world.path / "silent").touch()
    (world.path / "gres.conf").write_text("Name=gpu File=/dev/nvidia[3,2,1,0]\n")
    world.restart(forget=False)
    world.until(lambda: cards(world, "8.r1") == ["GPU-1"])
    assert world.claims()["8.r1"][0].key == claim.key
    fact = world.until(lambda: world.facts.get("8.r1") if world.poll() else None)
    assert (fact.id, fact.started_ns) == (before.id, before.started_ns)
    assert Evidence.SCONTROL in world.poll().complete
    if hooked:
        (world.events / "8.1.json").unlink()
        world.until(lambda: ended(world, "8.r1") is None)
    world.cgroup_gone(group)
    world.until(lambda: ended(world, "8.r1"))


def test_a_run_begun_while_nobody_watched_is_another_run(world: World) -> None:
    world.record("8", gres="gpu:1(IDX:1)")
    group = run(world, "8")
    world.until(lambda: cards(world, "8"))
    before = world.before()
    world.tenants.close()
    world.cgroup_gone(group)
    time.sleep(0.02)  # A process's start is known to 10 ms.
    world.cgroup("8", pids=[world.process("8")])
    world.record("8", gres="gpu:1(IDX:1)", restarts=1)
    (world.path / "silent").touch()
    world.facts.clear()
    world.tenants = world._new()
    world.open(before)
    world.until(lambda: "controller_silent" in world.poll().rejected)
    assert world.claims() == {} and world.facts == {}
    assert Evidence.SCONTROL not in world.poll().complete
    (world.path / "silent").unlink()
    world.until(lambda: cards(world, "8.r1"))
    world.until(lambda: world.poll() and "8" in world.facts)
    assert world.facts["8"].ended_ns == before.last_ns


def test_the_same_run_is_recognised_by_the_start_that_the_controller_gives(world: World) -> None:
    world.record("8", gres="gpu:1(IDX:1)")
    group = run(world, "8")
    world.until(lambda: cards(world, "8"))
    (claim,) = world.claims()["8"]
    before = world.before()
    world.tenants.close()
    world.cgroup_gone(group)
    time.sleep(0.02)
    world.cgroup("8", pids=[world.process("8")])
    world.facts.clear()
    world.tenants = world._new()
    world.open(before)
    world.until(lambda: cards(world, "8"))
    assert world.claims()["8"][0].workload == claim.workload


def test_a_job_that_a_reboot_killed_has_ended(world: World) -> None:
    world.prolog("8", "0", boot_id="00000000-0000-0000-0000-000000000000")
    world.prolog("9", "1")
    world.until(lambda: world.poll() and "9" in world.facts)
    (nine,) = (f for f in world.facts.values() if f.id.workload == "9")
    eight = msgspec.structs.replace(nine, id=nine.id._replace(workload="8"))
    world.tenants.close()
    (world.events / "9.0.json").unlink()
    world.facts.clear()
    world.tenants = world._new()
    until_ns = world.clock.now_ns()
    world.open(Before((eight, nine), (), until_ns))
    world.until(lambda: world.poll() and set(world.facts) == {"8", "9"})
    assert {f.ended_ns for f in world.facts.values()} == {until_ns}
    assert not list(world.events.iterdir())
    boot_ns = -world.clock.boottime_ns(0)
    world.tenants.close()
    world.tenants = world._new()
    world.open(Before((eight,), (), boot_ns - NS_PER_S))
    world.poll()
    assert world.facts["8"].extra["ended"] == "node restarted"


@pytest.mark.parametrize(
    ("says", "is_its"),
    [
        ({"state": "COMPLETED"}, True),
        ({"state": "COMPLETED", "restarts": 1}, False),
        ({"state": "COMPLETED", "start": "2026-11-30T01:02:04"}, False),
        ({"state": "RUNNING"}, False),
        ({}, False),
    ],
)
def test_a_job_that_ended_while_the_daemon_was_away_ended_when_the_controller_says(
    world: World, says: dict[str, object], is_its: bool
) -> None:
    now_s = time.time()
    began, ended_at = (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s - ago_s)) for ago_s in (60, 20)
    )
    world.record("8", start=began)
    world.cgroup_gone(run(world, "8"))
    world.until(lambda: world.poll() and world.facts.get("8") and world.facts["8"].ended_ns)
    facts = msgspec.structs.replace(world.facts["8"], ended_ns=None)
    world.tenants.close()
    (world.records / "8").unlink()
    if says:
        world.record("8", **{"start": began, "end": ended_at, **says})
    world.facts.clear()
    world.tenants = world._new()
    last_ns = world.clock.now_ns() - 40 * NS_PER_S
    world.open(Before((facts,), (), last_ns))
    world.until(lambda: world.poll() and "8" in world.facts)
    end_ns = (int(now_s) - 20) * NS_PER_S - world.clock.utc_offset_ns()
    found_ns = world.facts["8"].ended_ns
    assert found_ns is not None
    assert abs(found_ns - (end_ns if is_its else last_ns)) < NS_PER_S


def test_a_dead_job_found_at_the_start_holds_nothing_meanwhile(world: World) -> None:
    world.record("8", state="COMPLETED")
    world.prolog("8", "0", start_ns=time.time_ns() - 60 * NS_PER_S)
    world.until(lambda: cards(world, "8"))
    (world.path / "delay").write_text("0.2")
    world.restart(forget=False)
    assert Evidence.PROLOG not in world.poll().complete
    world.until(lambda: ended(world, "8"))
    assert Evidence.PROLOG in world.poll().complete


# -- numbers come again


def test_a_number_that_comes_again_is_another_job(world: World) -> None:
    start = time.time_ns()
    alice = world.prolog("5", "0", user="alice", start_ns=start - 20 * NS_PER_S)
    world.until(lambda: cards(world, "5"))
    world.epilog({**alice, "end_ns": start - 12 * NS_PER_S})
    world.until(lambda: ended(world, "5"))
    world.prolog("5", "1", user="bob", start_ns=start)
    world.until(lambda: cards(world, "5") == ["GPU-1"])
    claims = world.claims()["5"]
    assert len({c.workload for c in claims}) == 2
    world.poll()
    assert (world.events / "5.0.json").exists(), "bob's is not deleted with alice's"
    world.until(lambda: world.poll() and world.facts["5"].labels.user == "bob")


def test_a_number_that_came_again_while_the_daemon_was_away_is_another_job(world: World) -> None:
    """A site's own Prolog names both files alike, where ours would take another name."""
    start = time.time_ns()
    alice = world.prolog("5", "0", user="alice", start_ns=start - 20 * NS_PER_S)
    world.until(lambda: cards(world, "5") == ["GPU-0"])
    before = world.before()
    world.tenants.close()
    world.epilog({**alice, "end_ns": start - 12 * NS_PER_S})
    bob = world.prolog("5", "1", user="bob", start_ns=start)
    world.open(before)
    world.until(lambda: cards(world, "5") == ["GPU-1"])
    world.until(lambda: world.poll() and len(world.claims()["5"]) == 1)
    assert (world.events / "5.0.json").exists(), "bob's is not deleted with alice's"
    world.epilog({**bob, "end_ns": start + NS_PER_S})
    world.until(lambda: ended(world, "5"))
    world.until(lambda: world.poll() and not list(world.events.iterdir()))
    assert not world.claims(), "no second bob goes on holding"


def test_a_new_run_of_a_number_ends_one_whose_epilog_was_missed(world: World) -> None:
    start = time.time_ns()
    world.prolog("5", "0", user="alice", start_ns=start - 20 * NS_PER_S)
    world.until(lambda: cards(world, "5") == ["GPU-0"])
    world.prolog("5", "0", user="bob", start_ns=start)
    world.until(lambda: {c.t1_ns is None for c in world.claims()["5"]} == {True, False})
    (old,) = (c for c in world.claims()["5"] if c.t1_ns is not None)
    (new,) = (c for c in world.claims()["5"] if c.t1_ns is None)
    assert old.t1_ns == new.t0_ns and old.workload != new.workload
