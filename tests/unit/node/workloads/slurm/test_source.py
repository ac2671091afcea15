from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.scale import scaled
from tests.unit.node.workloads.slurm.slurm_world import World

from joulebook.core.attribution.claims import Evidence
from joulebook.core.energy.readings import Instance
from joulebook.node.workloads.slurm.job import Job
from joulebook.node.workloads.slurm.job_record import JobAnswer
from joulebook.units import NS_PER_S

QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    world.open()
    yield world
    world.close()


def meters(world: World, job: str | None) -> list[str]:
    return sorted(c.meter.name for c in world.claims().get(job, []))


# -- event files


def test_a_job_begins_and_ends_by_its_event_file(world: World) -> None:
    job = world.prolog("101", "0", "2", comment="experiment=bert", time_limit_s=7200)
    (first, second) = world.until(lambda: world.claims().get("101"))
    assert {first.meter.name, second.meter.name} == {"GPU-0", "GPU-2"}
    assert first.t0_ns == second.t0_ns
    assert abs(first.t0_ns + world.clock.utc_offset_ns() - job["start_ns"]) < 200_000
    assert (first.t1_ns, first.evidence, first.parts, first.of) == (None, Evidence.PROLOG, 1, 1)
    assert world.boundaries == [first.t0_ns]
    world.poll()
    assert (world.events / "101.0.json").exists()

    world.epilog(job)
    ended = world.until(lambda: [c for c in world.claims().get("101", []) if c.t1_ns])
    assert world.boundaries == [first.t0_ns, ended[0].t1_ns]
    world.poll(settle=False)
    assert (world.events / "101.0.end").exists(), "until it is booked"
    world.tenants.settled()
    assert not list(world.events.iterdir())
    assert world.claims() == {}
    world.until(lambda: world.poll() and world.facts["101"].complete)
    fact = world.facts["101"]
    assert (fact.labels.user, fact.labels.account, fact.labels.experiment) == ("ada", "nlp", "bert")
    assert fact.extra["time_limit_s"] == "7200"
    assert fact.complete and fact.ended_ns == ended[0].t1_ns and fact.gpu_count == 2
    assert fact.evidence == "prolog"


def test_a_plain_removal_is_an_end(world: World) -> None:
    world.prolog("101", "0")
    world.until(world.claims)
    before = world.clock.now_ns()
    (world.events / "101.0.json").unlink()
    (claim,) = world.until(lambda: [c for c in world.claims().get("101", []) if c.t1_ns])
    assert claim.t1_ns is not None
    assert before <= claim.t1_ns <= world.clock.now_ns()
    world.until(lambda: world.poll() and not world.claims())


def test_an_end_without_end_ns_is_the_time_of_its_renaming(world: World) -> None:
    world.tenants.close()
    world.put("101.0.end", world.event("101", "0", start_ns=time.time_ns() - NS_PER_S))
    world.restart()
    (claim,) = world.claims()["101"]
    assert claim.t1_ns is not None
    assert abs(claim.t1_ns - world.clock.now_ns()) < NS_PER_S


def test_lived_and_died_while_closed_and_the_same_claim_after_a_restart(world: World) -> None:
    world.prolog("101", "0")
    world.until(world.claims)
    key = world.claims()["101"][0].key
    world.tenants.close()
    world.epilog(world.prolog("102", "1"))
    world.restart()
    claims = world.claims()
    assert [c.key for c in claims["101"]] == [key]
    assert claims["102"][0].t1_ns is not None
    both = {Evidence.PROLOG, Evidence.SCONTROL}
    world.until(lambda: world.poll(settle=False).complete >= both)


def test_an_event_of_an_earlier_boot_is_left_out_and_swept_away(world: World) -> None:
    world.tenants.close()
    world.prolog("101", "0", boot_id="00000000-0000-0000-0000-000000000000")
    world.prolog("102", "1", boot_id="", start_ns=1_500_000_000 * NS_PER_S)
    done = world.event("103", "2", boot_id="00000000-0000-0000-0000-000000000000")
    world.put("103.0.end", {**done, "end_ns": done["start_ns"] + NS_PER_S // 10})
    world.restart()
    held = world.poll(settle=False)
    assert [c.workload.workload for c in held.claims if c.workload] == ["103"]
    assert Evidence.PROLOG in held.complete, "so the core closes what was on record"
    world.tenants.settled()
    assert not list(world.events.iterdir())


def test_a_stepped_wall_clock_moves_no_start(world: World) -> None:
    uptime_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 10**6
    for job, step_s in (("101", -3600), ("102", 3600)):
        start_ns = time.time_ns() + step_s * NS_PER_S
        world.prolog(job, "0", start_ns=start_ns, start_uptime_ms=uptime_ms)
        world.until(lambda job=job: job in world.claims())  # type: ignore[misc]
        (claim,) = world.claims()[job]
        assert abs(claim.t0_ns - world.clock.now_ns()) < NS_PER_S
    world.prolog("103", "0", start_ns=time.time_ns() + 3600 * NS_PER_S)
    (claim,) = world.until(lambda: world.claims().get("103"))
    assert claim.t0_ns <= world.clock.now_ns(), "never in the future"


def test_half_written_hostile_and_foreign_files_are_refused_and_counted(world: World) -> None:
    world.prolog("101", "0")
    world.put("102.0.json", b'{"v":1,"scheduler":"slurm","job_id":"102"')
    world.put("103.0.json", world.event("104", "1"))
    world.put("105.0.json", world.event("1;5", "1"))
    (world.events / "106.0.json").symlink_to(world.events / "101.0.json")
    world.put("107.0.json", b" " * 200_000)
    path = world.events / ".t"
    path.write_text(json.dumps(world.event("108", "1")))
    os.chown(path, 12345, 12345)
    path.rename(world.events / "108.0.json")
    world.until(lambda: world.poll(settle=False).rejected.get("foreign_owner"))
    world.until(lambda: "101" in world.claims())
    world.restart()
    assert set(world.claims()) == {"101"}
    assert world.poll(settle=False).rejected == {
        "not_json": 1, "bad_name": 1, "bad_job_id": 1, "symlink": 1, "too_large": 1,
        "foreign_owner": 1,
    }  # fmt: skip
    world.put("102.0.json", world.event("102", "1"))
    world.until(lambda: "102" in world.claims())


def test_a_directory_that_is_too_open_proves_nothing(world: World) -> None:
    world.events.chmod(0o777)
    world.restart()
    world.prolog("101", "0")
    time.sleep(0.1)
    held = world.poll(settle=False)
    assert held.claims == () and Evidence.PROLOG not in held.complete
    assert held.rejected == {"directory_too_open": 1}
    world.events.chmod(0o755)
    world.until(lambda: world.claims().get("101"))
    world.until(lambda: Evidence.PROLOG in world.poll(settle=False).complete)


def test_the_directory_may_vanish_and_come_back(world: World) -> None:
    world.prolog("101", "0")
    world.until(world.claims)
    for path in world.events.iterdir():
        path.unlink()
    world.events.rmdir()
    world.until(lambda: Evidence.PROLOG not in world.poll(settle=False).complete)
    world.events.mkdir()
    world.prolog("102", "1")
    world.until(lambda: "102" in world.claims())


def test_requeued_and_two_nodes(world: World) -> None:
    world.epilog(world.prolog("101", "0"))
    world.prolog("101", "0", restart_count=1)
    world.until(lambda: set(world.claims()) == {"101", "101.r1"})
    one = world.event("102", "1", node="n1")
    two = world.event("102", "2", node="n2")
    world.put("102.0.json", one)
    world.put("102.0.n2.json", two)
    world.until(lambda: meters(world, "102") == ["GPU-1", "GPU-2"])
    world.poll()
    (world.events / "102.0.json").unlink()
    world.until(lambda: [c for c in world.claims().get("102", []) if c.t1_ns])
    world.poll()
    assert world.facts["102"].ended_ns is None
    (world.events / "102.0.n2.json").unlink()
    world.until(lambda: world.poll() and world.facts["102"].ended_ns)


def test_only_the_nodes_of_this_daemon(world: World) -> None:
    world.options = {"only": "n[1-2]"}
    world.restart()
    world.put("101.0.json", world.event("101", "0", node="n3"))
    world.put("102.0.json", world.event("102", "1", node="n2"))
    world.record("103")
    world.cgroup("103", node="n3")
    world.until(lambda: "102" in world.claims())
    time.sleep(0.3)
    assert set(world.claims()) == {"102"}
    assert world.questions() == []


# -- the queue of inotify


def test_many_directories_in_a_queue_of_16_lose_no_job(world: World) -> None:
    before = QUEUE.read_text()
    QUEUE.write_text("16")
    try:
        world.restart()
    finally:
        QUEUE.write_text(before)
    for job in ("101", "103"):
        world.record(job)
    world.prolog("101", "0")
    world.until(lambda: "101" in world.claims())
    top = world.root / "freezer" / "slurm_n1" / "uid_5"
    top.mkdir(parents=True)
    many = scaled(1000)
    for n in range(many):
        (top / f"job_{n + 1}").mkdir()
        if n == many // 2:
            world.epilog(world.prolog("102", "1"))
            world.prolog("103", "2")
        (top / f"job_{n + 1}").rmdir()
    world.until(lambda: {"101", "102", "103"} <= set(world.claims()), timeout_s=30)
    claims = world.claims()
    assert claims["101"][0].t1_ns is None and claims["103"][0].t1_ns is None
    assert claims["102"][0].t1_ns is not None
    world.until(lambda: world.poll() and len(world.tenants._table) <= 3, timeout_s=30)


def test_many_jobs_leave_nothing_in_memory(world: World) -> None:
    many = scaled(300)
    for n in range(1, many + 1):
        world.epilog(world.prolog(str(n), "0"))
        if n % 100 == 0:
            world.poll()
    world.until(lambda: world.poll() and not list(world.events.iterdir()))
    world.until(lambda: world.poll() and len(world.tenants._table) == 0)
    assert len(world.facts) == many


def test_holdings_are_cheap(world: World) -> None:
    for n in range(1, 65):
        world.prolog(str(n), str(n % 4))
    world.until(lambda: len(world.claims()) == 64)
    took = []
    for _ in range(50):
        began = time.thread_time()
        world.tenants.holdings(world.devices)
        world.tenants.settled()
        took.append(time.thread_time() - began)
    assert sorted(took)[25] < 0.003, "of CPU; well under a millisecond on a quiet machine"


# -- cgroups, labels, the controller


def test_without_event_files_the_controller_is_asked_once(world: World) -> None:
    world.record("101", gres="gpu:a100:2(IDX:1-2)", restarts=2, comment="experiment=gpt")
    path = world.cgroup("101")
    before = world.clock.now_ns()
    (first, second) = world.until(lambda: world.claims().get("101.r2"))
    assert (first.meter.name, second.meter.name) == ("GPU-1", "GPU-2")
    assert first.evidence is Evidence.SCONTROL
    assert abs(first.t0_ns - before) < NS_PER_S
    world.poll()
    world.cgroup_gone(path)
    (claim, _) = world.until(lambda: [c for c in world.claims().get("101.r2", []) if c.t1_ns])
    assert world.boundaries == [claim.t0_ns, claim.t1_ns]
    world.until(lambda: world.poll() and len(world.tenants._table) == 0)
    fact = world.facts["101.r2"]
    assert (fact.labels.user, fact.labels.account, fact.labels.experiment) == ("ada", "nlp", "gpt")
    assert fact.name == "train_1" and fact.complete
    assert world.questions() == ["101"]


def test_an_answer_that_does_not_come_is_asked_for_again(world: World) -> None:
    world.options = {"ask_timeout_s": 0.3}
    world.restart()
    (world.path / "delay").write_text("30")
    world.cgroup("101")
    world.until(world.questions)
    held = world.poll()
    assert held.claims == () and Evidence.SCONTROL not in held.complete
    world.prolog("102", "3")
    world.until(lambda: "102" in world.claims(), timeout_s=20)
    world.until(lambda: "controller_silent" in world.poll().rejected)
    assert Evidence.SCONTROL not in world.poll().complete
    assert set(world.claims()) == {"102"}
    world.record("101", gres="gpu:1(IDX:2)", restarts=1)
    (world.path / "delay").unlink()
    world.until(lambda: meters(world, "101.r1") == ["GPU-2"])
    assert Evidence.SCONTROL in world.poll().complete


def test_an_answer_about_somebody_else_is_not_taken(world: World) -> None:
    world.record("101", uid=os.getuid() + 1)
    world.cgroup("101")
    world.until(lambda: world.poll() and "101" in world.facts)
    assert world.claims() == {}
    assert world.facts["101"].labels.user == ""


def test_the_event_file_goes_before_any_answer(world: World) -> None:
    world.record("101", gres="gpu:1(IDX:3)")
    world.prolog("101", "0", user="eve", account="own")
    world.cgroup("101")
    world.until(lambda: meters(world, "101") == ["GPU-0"])
    time.sleep(0.3)
    assert meters(world, "101") == ["GPU-0"]
    assert world.questions() == []


def test_labels_from_the_environment_and_no_secrets(world: World) -> None:
    world.prolog("101", "0")
    pid = world.process(
        "101", SLURM_JOB_NAME="bert_7", SLURM_ARRAY_JOB_ID="99", SLURM_ARRAY_TASK_ID="7",
        SLURM_JOB_QOS="high", WANDB_PROJECT="proj\nect", WANDB_API_KEY="s3cret-1",
        AWS_SECRET_ACCESS_KEY="s3cret-2",
    )  # fmt: skip
    world.cgroup("101", pids=[pid])
    world.until(lambda: world.poll() and "101" in world.facts and world.facts["101"].name)
    fact = world.facts["101"]
    assert (fact.display, fact.name, fact.labels.experiment) == ("", "bert_7", "proj ect")
    assert fact.extra["qos"] == "high"
    assert "s3cret" not in repr(world.tenants._table.__dict__) + repr(list(world.tenants._table))
    assert "s3cret" not in repr(world.facts)


def test_the_environment_of_another_user_does_not_count(world: World) -> None:
    world.prolog("101", "0", uid=12345)
    pid = world.process("101", SLURM_JOB_NAME="not mine")
    world.cgroup("101", pids=[pid])
    time.sleep(0.3)
    world.poll()
    assert world.facts["101"].name == ""


def test_a_label_file_of_the_task_prolog(world: World) -> None:
    labels = world.events / "labels"
    labels.mkdir()
    labels.chmod(0o1777)
    (labels / f"101.{os.getuid()}.json").write_text(
        '{"SLURM_JOB_NAME":"bert","JOULEBOOK_EXPERIMENT":"paper","HOME":"/",'
        '"JOULEBOOK_STAGE":"SFT"}'
    )
    job = world.prolog("101", "0")
    world.until(lambda: world.poll() and "101" in world.facts and world.facts["101"].name)
    fact = world.facts["101"]
    assert (fact.labels.experiment, fact.stage) == ("paper", "SFT")
    world.epilog(job)
    world.until(lambda: world.poll() and not list(labels.iterdir()))


def test_leftovers_of_a_reboot_are_no_jobs(world: World) -> None:
    world.tenants.close()
    world.cgroup("77")
    world.record("77")
    world.restart()
    time.sleep(0.1)
    assert world.claims() == {} and world.questions() == []


def test_whose_process_it_is(world: World, tmp_path: Path) -> None:
    assert world.tenants.identify(os.getpid()) is None
    assert world.tenants.identify(2**22 + 1) is None
    world.prolog("101", "0", restart_count=2)
    world.until(lambda: world.poll() and world.facts)
    proc = tmp_path / "proc" / "42"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text("3:freezer:/slurm_n1/uid_0/job_101/step_0\n")
    world.tenants._reader._proc = str(tmp_path / "proc")
    assert world.tenants.identify(42) == world.facts["101.r2"].id


def test_a_sluid_is_named_by_its_own_processes_only(world: World, tmp_path: Path) -> None:
    world.prolog("101", "0")
    world.prolog("102", "1", uid=12345)
    world.until(lambda: len(world.claims()) == 2)
    scope = world.root / "system.slice" / "slurmstepd.scope"
    proc = tmp_path / "proc"
    for n, (sluid, job) in enumerate((("s8FXKTA79XAR00", "101"), ("s8FXKTA79XAR01", "102"))):
        pid = world.process(job, SLURM_JOB_NAME="named")
        step = scope / sluid / "step_batch" / "user" / "task_0"
        step.mkdir(parents=True)
        (step / "cgroup.procs").write_text(f"{pid}\n")
        (proc / str(n)).mkdir(parents=True)
        path = f"/system.slice/slurmstepd.scope/{sluid}/step_batch/user/task_0"
        (proc / str(n) / "cgroup").write_text(f"0::{path}\n")
    world.tenants._reader._proc = str(proc)
    world.until(lambda: world.tenants.identify(0))
    found = world.tenants.identify(0)
    assert found is not None and found.workload == "101"
    world.until(lambda: world.poll() and "101" in world.facts and world.facts["101"].name)
    time.sleep(0.3)
    assert world.tenants.identify(1) is None, "a process of another user's job says it is 102"
    assert world.poll().rejected == {}


# -- when labels are settled


def test_the_model_of_its_devices_is_told_for_good(world: World) -> None:
    job = world.prolog("101", "3", "0", "1")
    world.until(lambda: world.poll() and "101" in world.facts)
    assert world.facts["101"].extra["gpu_model"] == "M0,M1"
    world.epilog(job)
    world.until(lambda: world.poll() and world.facts["101"].ended_ns)
    assert world.facts["101"].extra["gpu_model"] == "M0,M1"


def test_the_array_of_a_task(world: World) -> None:
    world.record("107", array="ArrayJobId=101 ArrayTaskId=7 ", gres="gpu:1(IDX:0)")
    world.cgroup("107")
    world.until(lambda: world.poll() and "107" in world.facts and world.facts["107"].display)
    assert world.facts["107"].display == "101_7"
    assert world.facts["107"].extra["array"] == "101"


def settles_within(world: World, job: str, timeout_s: float) -> bool:
    try:
        world.until(
            lambda: world.poll() and job in world.facts and world.facts[job].complete, timeout_s
        )
    except AssertionError:
        return False
    return True


def test_with_nobody_left_to_ask_a_decided_job_is_settled_early(world: World) -> None:
    world.options = {"scontrol": ""}
    world.restart()
    world.prolog("101", "0", comment="experiment=bert")
    world.prolog("102", "1")
    assert settles_within(world, "101", 3)
    fact = world.facts["101"]
    assert (fact.labels.user, fact.labels.account, fact.labels.experiment) == ("ada", "nlp", "bert")
    assert not world.facts["102"].complete, "a variable may still name its experiment"
    pid = world.process("101", SLURM_JOB_NAME="late")
    world.cgroup("101", pids=[pid])
    world.until(lambda: world.poll() and world.facts["101"].name == "late")


def test_a_task_of_an_array_may_still_be_told_to_be_one(world: World) -> None:
    world.options = {"ask_timeout_s": 60.0}
    (world.path / "delay").write_text("30")
    world.restart()
    world.prolog("101", "0", comment="experiment=bert")
    assert not settles_within(world, "101", 2)
    assert world.facts["101"].labels.experiment == "bert"


def test_a_controller_that_does_not_know_the_job_is_not_waited_for(world: World) -> None:
    world.prolog("101", "0", comment="experiment=bert")
    assert settles_within(world, "101", 3)
    assert world.questions() == ["101", "101"], "one answer alone may be wrong"


# -- which GPU


def test_that_nobody_knows_the_order_is_said_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    (tmp_path / "gres.conf").unlink()
    world.open()
    for job in ("101", "102"):
        world.prolog(job, "0")
        world.until(lambda job=job: world.poll() and job in world.facts)  # type: ignore[misc]
    for _ in range(3):
        assert world.poll().rejected == {"gres_unknown": 2}
    assert meters(world, None) == [f"GPU-{n}" for n in range(4) for _ in "12"]
    (said,) = [r.getMessage() for r in caplog.records if "unknown_holder" in r.getMessage()]
    assert str(tmp_path / "gres.conf") in said
    fact = world.facts["101"]
    assert (fact.labels.user, fact.gpu_count, fact.evidence) == ("ada", 1, "prolog")
    assert "gpu_model" not in fact.extra
    world.prolog("103", "MIG-5", gpu_ids="uuid")
    world.until(lambda: world.poll().rejected.get("gpu_unknown"))
    world.close()


def test_an_order_that_nobody_knows_is_an_unknown_holder(tmp_path: Path) -> None:
    world = World(tmp_path, "AutoDetect=nvml\n")
    world.open()
    world.prolog("101", "0", "1")
    claims = world.until(world.claims)
    assert {c.meter.name for c in claims[None]} == {f"GPU-{n}" for n in range(4)}
    assert {c.evidence for c in claims[None]} == {Evidence.SCONTROL}, "any better one goes before"
    world.prolog("102", "0", "1", "2", "3")
    world.until(lambda: len(world.claims().get("102", [])) == 4)
    world.prolog("103", "1", gpu_ids="minor")
    world.prolog("104", "GPU-2", gpu_ids="uuid")
    world.until(lambda: {"103", "104"} <= set(world.claims()))
    assert meters(world, "103") == ["GPU-1"] and meters(world, "104") == ["GPU-2"]
    world.close()


def test_a_job_keeps_its_card_when_it_drops_out(world: World) -> None:
    world.prolog("101", "1")
    world.until(lambda: meters(world, "101") == ["GPU-1"])
    devices, world.devices = world.devices, world.devices[:1]
    assert meters(world, "101") == ["GPU-1"]
    world.prolog("102", "2")
    time.sleep(0.1)
    assert meters(world, "102") == [], "a card that is not there cannot be booked"
    world.devices = devices
    world.tenants._table.knows("101.0")
    held = world.tenants.holdings([])
    assert held.complete == frozenset(), "no devices yet: nothing is whole"


def test_shards_wait_for_the_controller(tmp_path: Path) -> None:
    world = World(tmp_path, "Name=gpu File=/dev/nvidia[0-3]\nName=shard Count=16\n")
    world.record("101", gres="shard:3(IDX:2)")
    world.record("102", gres="gpu:1(IDX:1)")
    world.open()
    world.prolog("101", "2")
    (claim,) = world.until(lambda: world.claims().get("101"))
    assert (claim.meter.name, claim.parts, claim.of) == ("GPU-2", 3, 4)
    assert claim.evidence is Evidence.PROLOG
    world.prolog("102", "1")
    (claim,) = world.until(lambda: world.claims().get("102"))
    assert (claim.parts, claim.of) == (1, 1)
    world.prolog("103", "3")  # The controller does not know it.
    (claim,) = world.until(lambda: world.claims().get("103"))
    assert (claim.parts, claim.of) == (1, 1)
    world.close()


# -- directories that a site has already


def test_job_mapping_of_dcgm_exporter_and_gpustat(tmp_path: Path) -> None:
    world = World(tmp_path, "Name=gpu File=/dev/nvidia[3,2,1,0]\n")
    mapping, gpustat = tmp_path / "hpc", tmp_path / "gpustat"
    for each in (mapping, gpustat):
        each.mkdir()
    world.options = {"hpc_job_mapping_dir": mapping, "gpustat_dir": gpustat}
    (mapping / "0").write_text("0\n")
    world.record("101", gres="")
    world.record("102", gres="")
    world.restart()
    assert world.poll().complete >= {Evidence.JOB_MAPPING, Evidence.GPUSTAT}
    (mapping / "0").write_text("101\n")
    (gpustat / "0").write_text(f"102 {os.getuid()}\n")
    world.until(lambda: set(world.claims()) == {"101", "102"})
    claims = world.claims()
    assert [(c.meter.name, c.evidence) for c in claims["101"]] == [("GPU-0", Evidence.JOB_MAPPING)]
    assert [(c.meter.name, c.evidence) for c in claims["102"]] == [("GPU-3", Evidence.GPUSTAT)]
    world.poll()
    (mapping / "0").write_text("101\n103\n")
    shared = world.until(lambda: world.claims() if "103" in world.claims() else None)
    assert sorted((c.parts, c.of, c.t1_ns is None) for c in shared["101"]) == [
        (1, 1, False), (1, 2, True),
    ]  # fmt: skip
    assert [(c.parts, c.of) for c in shared["103"]] == [(1, 2)]
    cut = (Instance("MIG-a", 3, 0, 2, "2g.10gb"), Instance("MIG-b", 4, 0, 1, "1g.5gb"))
    world.devices[1] = msgspec.structs.replace(
        world.devices[1], t_ns=2**62, mig=True, instances=cut, slices=7
    )
    for instance in ("1.3", "1.4"):
        (mapping / instance).write_text("103\n")
    world.until(lambda: sum(c.of == 7 for c in world.claims()["103"]) == 2)
    assert {(c.meter.name, c.instance, c.parts) for c in world.claims()["103"] if c.of == 7} == {
        ("GPU-1", "MIG-a", 2),
        ("GPU-1", "MIG-b", 1),
    }
    (mapping / "1.5").write_text("101\n")
    (gpustat / "MIG-aaaaaaaa").write_text(f"102 {os.getuid()}\n")
    world.until(lambda: len(world.poll().rejected) and None in world.claims())
    assert {c.meter.name for c in world.claims()[None]} == {"GPU-1"}, "its card is known"
    for each in (mapping / "1.5", gpustat / "MIG-aaaaaaaa"):
        each.unlink()
    for instance in ("1.3", "1.4"):
        (mapping / instance).unlink()
    (mapping / "0").write_text("0\n")
    (gpustat / "0").unlink()
    world.until(lambda: all(c.t1_ns for cs in world.claims().values() for c in cs))
    world.until(lambda: world.poll() and len(world.tenants._table) == 0)
    assert world.facts["102"].labels.account == "nlp"
    world.close()


# -- life cycle


def test_open_and_close_leave_no_thread_and_no_descriptor(world: World) -> None:
    world.tenants.close()
    world.tenants.close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        world.restart()
        world.poll()
    world.tenants.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_fault_of_ours_is_said_and_survived(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reported = world.tenants._tracker.job_told

    def broken(*_: object, **__: object) -> None:
        monkeypatch.setattr(world.tenants._tracker, "job_told", reported)
        raise ZeroDivisionError

    monkeypatch.setattr(world.tenants._tracker, "job_told", broken)
    world.prolog("101", "0")
    world.until(lambda: world.poll().complete == frozenset())
    world.until(lambda: "101" in world.claims() and world.poll().complete)
    assert world.poll().rejected == {"fault": 1}
    assert "rescanning" in caplog.text


def test_an_answer_that_breaks_something_is_no_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is asked for again, and the watch over its end goes on."""
    kept = world.tenants._tracker.table.kept
    broken = iter([ZeroDivisionError, ValueError])
    true = kept.recognise

    def recognise(job: Job, answer: JobAnswer | None) -> None:
        if error := next(broken, None):
            raise error
        true(job, answer)

    monkeypatch.setattr(kept, "recognise", recognise)
    world.record("101", gres="gpu:1(IDX:2)")
    world.cgroup("101")
    world.until(lambda: meters(world, "101") == ["GPU-2"])
    assert next(broken, None) is None, "both faults were met"
