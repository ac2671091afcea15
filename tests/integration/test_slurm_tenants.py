"""SLURM tenants against a real SLURM: slurmctld, slurmd, real hooks, real cgroups."""

from __future__ import annotations

import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.slurm_cluster import SlurmCluster

from joulebook.clock import NodeClock
from joulebook.core.attribution.claims import Claim, Evidence
from joulebook.core.energy.readings import Component, DeviceStatus, Meter
from joulebook.core.workloads import WorkloadFacts
from joulebook.node.workloads.contract import Holdings
from joulebook.node.workloads.slurm.gres_conf import load_gres, parse_slurmd_g
from joulebook.node.workloads.slurm.source import SlurmSite, SlurmWorkloads
from joulebook.units import NS_PER_S

HOOKS = Path(__file__).parents[2] / "exporter" / "joulebook" / "hooks"
GPUS = 4
ORDER = (2, 0, 3, 1)
"""What gres.conf says: position 0 is the third card of the node."""


class Site:
    """A cluster with our hooks, and what the tenants of its host reported so far."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int,
        shards: int = 0,
        hooks: bool = True,
        accounting: bool = False,
    ) -> None:
        self.events = directory / "run" / "jobs"
        self.asked = directory / "asked"
        self.asked.touch()
        scontrol = directory / "scontrol"
        scontrol.write_text(
            f'#!/bin/sh\necho "$*" >> {self.asked}\nexec {shutil.which("scontrol")} "$@"\n'
        )
        scontrol.chmod(0o755)
        self.scontrol = str(scontrol)
        self.cluster = SlurmCluster(
            directory,
            nodes,
            GPUS,
            shards=shards,
            accounting=accounting,
            device_order=ORDER,
            prolog=HOOKS / "prolog.sh" if hooks else None,
            epilog=HOOKS / "epilog.sh" if hooks else None,
            hook_env={"JOULEBOOK_EVENTS_DIR": str(self.events)},
        )
        self.devices = [
            DeviceStatus(Meter(Component.GPU, f"GPU-{n}"), n, 0, minor=n)
            for n in range(nodes * GPUS)
        ]
        self.clock = NodeClock()
        self.claims: dict[object, Claim] = {}
        self.facts: dict[str, WorkloadFacts] = {}
        self.boundaries: list[tuple[int, int]] = []
        self.last = Holdings()
        self.tenants = self.new_tenants()

    def new_tenants(self) -> SlurmWorkloads:
        return SlurmWorkloads(
            self.clock,
            SlurmSite(
                events_dir=self.events,
                slurm_conf=self.cluster.directory / "slurm.conf",
                scontrol=self.scontrol,
                # Other tests may run clusters on this machine at the same time.
                only=",".join(self.cluster.nodes),
            ),
        )

    def open(self) -> None:
        self.tenants.open(lambda t_ns: self.boundaries.append((t_ns, self.clock.now_ns())))

    def forget(self) -> None:
        self.collect()
        self.claims.clear()
        self.facts.clear()
        self.boundaries.clear()
        self.asked.write_text("")

    def collect(self) -> None:
        """What the daemon does at each tick."""
        self.last = self.tenants.holdings(self.devices)
        self.claims.update({claim.key: claim for claim in self.last.claims})
        self.facts.update({fact.id.workload: fact for fact in self.last.facts})
        self.tenants.settled()

    def until(self, done: Callable[[], object], timeout_s: float = 30) -> None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.collect()
            if done():
                return
            time.sleep(0.05)
        raise AssertionError(f"not in {timeout_s} s: {self.claims} {self.facts}")

    def of(self, job: str) -> list[Claim]:
        return [c for c in self.claims.values() if c.workload and c.workload.workload == job]

    def held(self, job: str) -> set[str]:
        return {c.meter.name for c in self.of(job)}

    def over(self, *jobs: str) -> bool:
        return all(
            (f := self.facts.get(job)) is not None
            and f.ended_ns is not None
            and f.complete
            and all(c.t1_ns is not None for c in self.of(job))
            for job in jobs
        )

    def fact(self, job: str) -> WorkloadFacts:
        return self.facts[job]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    # Not pytest's own folder: other users' jobs (and mariadb) must be able to go into it.
    directory = Path(tempfile.mkdtemp(prefix="jb-", dir="/tmp"))
    site = Site(directory, nodes=2)
    site.tenants.open(lambda _: None)  # Makes the events directory before the first job.
    site.tenants.close()
    with site.cluster:
        yield site
    shutil.rmtree(directory)


@pytest.fixture
def opened(site: Site) -> Iterator[Site]:
    site.open()
    site.forget()
    yield site
    site.until(lambda: not list(site.events.glob("*.end")))
    site.tenants.close()


REALLY = (
    "for n in 0 1 2 3 4 5 6 7; do head -c1 {dev}/nvidia$n 2>&1 | grep -q permitted || echo $n; done"
)
"""Prints the cards that the device cgroup lets a job open: what SLURM really gave it."""


def test_50_short_jobs_of_an_array_are_all_seen(opened: Site) -> None:
    base = opened.cluster.sbatch("--gres=gpu:1", "--array=1-50", "-J", "sweep_9")
    opened.until(lambda: len(opened.facts) == 50 and opened.over(*opened.facts))
    assert {f.shown for f in opened.facts.values()} == {f"{base}_{n}" for n in range(1, 51)}
    assert {f.labels.experiment for f in opened.facts.values()} == {"sweep"}
    assert {f.labels.user for f in opened.facts.values()} == {"root"}
    assert len(opened.claims) == 50
    for claim in opened.claims.values():
        assert claim.evidence is Evidence.PROLOG
        assert claim.t1_ns is not None
        assert 0.1 * NS_PER_S < claim.t1_ns - claim.t0_ns < 5 * NS_PER_S
    on_one_card = sorted((c.meter, c.t0_ns, c.t1_ns) for c in opened.claims.values())
    for (card, _, end), (next_card, begin, _) in itertools.pairwise(on_one_card):
        assert card != next_card or end is None or end <= begin
    times = {t_ns for t_ns, _ in opened.boundaries}
    assert times >= {c.t0_ns for c in opened.claims.values()}
    assert times >= {c.t1_ns for c in opened.claims.values()}
    # That a job is a task of an array is known from the controller alone; tasks that wait for an
    # answer together get one.
    assert len(opened.asked.read_text().splitlines()) <= 50
    assert opened.last.complete >= {Evidence.PROLOG, Evidence.SCONTROL}


def test_positions_are_mapped_to_what_the_job_can_really_open(opened: Site) -> None:
    out = opened.cluster.directory / "really"
    out.mkdir()
    script = REALLY.format(dev=opened.cluster.devices) + f" > {out}/$SLURM_JOB_ID"
    # All hold theirs at once, however long one takes to begin: else two may have had the same GPU.
    script += f"; for _ in {{1..600}}; do [ $(ls {out} | wc -l) = 6 ] && break; sleep 0.1; done"
    jobs = [
        opened.cluster.sbatch(f"--gres=gpu:{n}", "-N1", "-w", node, script=script)
        for node in opened.cluster.nodes
        for n in (1, 2, 1)
    ]
    opened.until(lambda: opened.over(*jobs))
    cards = []
    for job in jobs:
        minors = (out / job).read_text().split()
        # One node's cgroup forbids what is in its gres.conf only: the others' cards stay open.
        node = next(
            n for n in range(2) if opened.held(job) & {f"GPU-{n * 4 + i}" for i in range(4)}
        )
        assert opened.held(job) == {f"GPU-{m}" for m in minors if int(m) // GPUS == node}
        cards += sorted(opened.held(job))
    assert len(cards) == 8 == len(set(cards))


def test_uneven_nodes_and_gpus_per_task(opened: Site) -> None:
    uneven = opened.cluster.sbatch(
        "-n3", "-N2", "-c8", "--gpus-per-task=1", script="srun sleep 0.5"
    )
    opened.until(lambda: opened.over(uneven))
    sizes = sorted(
        sum(f"GPU-{n * 4 + i}" in opened.held(uneven) for i in range(4)) for n in range(2)
    )
    assert sizes == [1, 2]
    assert len(opened.facts) == 1, "two nodes, one workload"
    assert opened.fact(uneven).gpu_count >= 1


def test_a_job_of_srun_alone(opened: Site) -> None:
    opened.cluster.run("srun", "--gres=gpu:1", "-J", "bare", "sleep", "0.3")
    opened.until(lambda: len(opened.facts) == 1 and opened.over(next(iter(opened.facts))))
    (fact,) = opened.facts.values()
    assert fact.name == "bare"
    assert len(opened.claims) == 1


def test_a_requeued_job_is_another_workload(opened: Site) -> None:
    job = opened.cluster.sbatch("--gres=gpu:1", "--requeue", script="sleep 600")
    opened.until(lambda: opened.of(job))
    opened.cluster.wait_state(job, "RUNNING")
    opened.cluster.run("scontrol", "requeue", job)
    opened.until(lambda: opened.over(job))
    opened.cluster.start_anew(job)
    opened.until(lambda: opened.of(f"{job}.r1"))
    opened.cluster.run("scancel", job)
    opened.until(lambda: opened.over(f"{job}.r1"))
    assert len(opened.of(job)) == len(opened.of(f"{job}.r1")) == 1


def test_a_job_submitted_inside_an_array_task_is_no_part_of_it(opened: Site) -> None:
    out = opened.cluster.directory / "inner"
    inner = opened.cluster.directory / "inner.sh"
    inner.write_text("#!/bin/sh\nsleep 0.3\n")
    array = opened.cluster.sbatch(
        "--gres=gpu:1", "--array=1", "-J", "outer",
        script=f"sbatch --parsable --output=/dev/null --gres=gpu:1 -J inner {inner} > {out}.new; "
        f"mv {out}.new {out}; sleep 0.3",
    )  # fmt: skip
    opened.until(out.exists)
    job = out.read_text().strip()
    opened.until(lambda: opened.over(job) and len(opened.facts) == 2 and opened.over(*opened.facts))
    assert opened.fact(job).display == ""
    assert (opened.fact(job).name, opened.fact(job).labels.experiment) == ("inner", "inner")
    assert {f.display for f in opened.facts.values()} == {"", f"{array}_1"}
    assert opened.fact(job).scheduler_start_s > 0


def test_an_epilog_that_is_missed_leaves_no_job_behind(opened: Site) -> None:
    epilog = opened.cluster.directory / "epilog.sh"
    text = epilog.read_text()
    epilog.write_text("#!/bin/sh\nexit 0\n")
    try:
        job = opened.cluster.sbatch("--gres=gpu:1", script="sleep 0.2")
        opened.until(lambda: opened.of(job))
        opened.cluster.wait_done(job)
        done_ns = opened.clock.now_ns()
        opened.until(lambda: opened.over(job))
    finally:
        epilog.write_text(text)
    (claim,) = opened.of(job)
    assert claim.t1_ns is not None and claim.t1_ns < done_ns + NS_PER_S
    assert not list(opened.events.glob(f"{job}.*"))


def test_cancelled_and_suspended(opened: Site) -> None:
    job = opened.cluster.sbatch("--gres=gpu:2", script="sleep 600")
    opened.cluster.wait_state(job, "RUNNING")
    opened.cluster.run("scontrol", "suspend", job)
    opened.cluster.wait_state(job, "SUSPENDED")
    opened.until(lambda: len(opened.held(job)) == 2)
    assert all(c.t1_ns is None for c in opened.of(job)), "a suspended job keeps its GPUs"
    opened.cluster.run("scontrol", "resume", job)
    opened.cluster.wait_state(job, "RUNNING")
    opened.cluster.run("scancel", job)
    opened.until(lambda: opened.over(job))


def test_components_of_a_heterogeneous_job_are_jobs(opened: Site) -> None:
    script = opened.cluster.directory / "het.sh"
    script.write_text("#!/bin/bash\n#SBATCH --gres=gpu:1\n#SBATCH hetjob\n#SBATCH --gres=gpu:2\n"
                      "srun --het-group=0,1 sleep 0.5\n")  # fmt: skip
    first = opened.cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", "-J", "het", str(script)
    )
    second = str(int(first) + 1)
    opened.until(lambda: opened.over(first, second))
    assert (len(opened.held(first)), len(opened.held(second))) == (1, 2)
    assert not opened.held(first) & opened.held(second)
    facts = [opened.fact(job) for job in (first, second)]
    assert [fact.shown for fact in facts] == [f"{first}+0", f"{first}+1"]
    assert [(fact.name, fact.labels.experiment) for fact in facts] == [("het", "het")] * 2


def test_slurmd_killed_and_restarted_changes_nothing(opened: Site) -> None:
    node = opened.cluster.nodes[0]
    runs = opened.cluster.directory / "runs"
    job = opened.cluster.sbatch("--gres=gpu:1", "-w", node, script=f"touch {runs}; sleep 2")
    # RUNNING is what the controller calls it before slurmd has begun: killed then, the job is lost.
    opened.until(lambda: opened.of(job) and runs.exists())
    opened.cluster.kill_slurmd(node)
    time.sleep(0.5)
    opened.collect()
    assert [c.t1_ns for c in opened.of(job)] == [None]
    opened.cluster.start_slurmd(node)
    opened.until(lambda: opened.over(job))
    assert len(opened.of(job)) == 1


def test_hostile_names_change_no_owner_and_are_clean(opened: Site) -> None:
    nasty = b'","user":"victim","account":"victims","uid":0,"x":"\n\t\x01\xff\\ \'$(id)` '
    nasty += b"experiment=evil"
    job = opened.cluster.sbatch(
        "--gres=gpu:1", "--uid=nobody", b"--comment=" + nasty,
        "-J", 'a"b\n   UserId=root(0) Account=x\\', script="sleep 0.3",
    )  # fmt: skip
    long = opened.cluster.sbatch(
        "--gres=gpu:1", "--uid=nobody", "--comment=experiment=long " + 'ü"' * 300
    )
    opened.until(lambda: opened.over(job, long))
    fact = opened.fact(job)
    assert (fact.labels.user, fact.labels.account) == ("nobody", "")
    assert fact.labels.experiment == "evil"
    assert fact.name == 'a"b UserId=root(0) Account=x\\'
    assert opened.fact(long).labels.experiment == "long"
    # (A busy controller may answer after the short job's end, and then not know its card.)
    assert opened.last.rejected.keys() <= {"gpu_unknown"}
    assert len(opened.of(job)) == len(opened.of(long)) == 1


def test_a_job_that_lived_and_died_unwatched(site: Site) -> None:
    site.open()
    site.forget()
    before = site.cluster.sbatch("--gres=gpu:1", script="sleep 1.5")
    site.until(lambda: site.of(before))
    (begun,) = site.of(before)
    site.tenants.close()
    inside = site.cluster.sbatch("--gres=gpu:1", "--comment=experiment=out", script="sleep 0.1")
    site.cluster.wait_done(inside, before)
    assert len(list(site.events.glob("*.end"))) == 2
    site.forget()

    site.tenants = site.new_tenants()
    site.open()
    site.until(lambda: site.over(inside, before))
    (claim,) = site.of(inside)
    assert claim.t1_ns is not None
    assert 0.1 * NS_PER_S < claim.t1_ns - claim.t0_ns < 2 * NS_PER_S
    assert site.fact(inside).labels.experiment == "out"
    assert [c.key for c in site.of(before)] == [begun.key], "the same claim as before the outage"
    site.until(lambda: not list(site.events.glob("*")))
    site.tenants.close()


def test_our_own_processes_are_nobodys_and_the_jobs_are_theirs(opened: Site) -> None:
    out = opened.cluster.directory / "pid"
    job = opened.cluster.sbatch("--gres=gpu:1", script=f"sleep 5 & echo $! > {out}; wait")
    opened.until(lambda: out.exists() and out.read_text().strip())
    assert opened.tenants.identify(int(out.read_text())) == opened.of(job)[0].workload
    assert opened.tenants.identify(1) is None
    opened.cluster.run("scancel", job)
    opened.until(lambda: opened.over(job))


def test_from_the_event_file_to_the_boundary_takes_milliseconds(opened: Site) -> None:
    delays = []
    for n in range(50):
        event = {
            "v": 1, "scheduler": "slurm", "job_id": str(900_000 + n), "restart_count": 0,
            "gpus": ["0"], "user": "ada", "start_ns": time.time_ns(),
        }  # fmt: skip
        temporary = opened.events / ".t"
        temporary.write_text(json.dumps(event))
        count = len(opened.boundaries)
        began = opened.clock.now_ns()
        temporary.rename(opened.events / f"{900_000 + n}.0.json")
        while len(opened.boundaries) == count:
            time.sleep(0.0002)
        delays.append((opened.boundaries[-1][1] - began) / 1e6)
        (opened.events / f"{900_000 + n}.0.json").unlink()
        opened.until(lambda count=count: len(opened.boundaries) == count + 2)  # type: ignore[misc]
    delays.sort()
    print(f"event file -> boundary: median {delays[25]:.2f} ms, max {delays[-1]:.2f} ms")
    assert delays[25] < 20


# -- other sites


def test_shards(short_tmp_path: Path) -> None:
    site = Site(short_tmp_path, nodes=1, shards=4 * GPUS)
    site.open()
    with site.cluster:
        three = site.cluster.sbatch("--gres=shard:3", script="sleep 1")
        one = site.cluster.sbatch("--gres=shard:1", script="sleep 1")
        whole = site.cluster.sbatch("--gres=gpu:1", script="sleep 1")
        site.until(lambda: site.over(three, one, whole))
        shares = {job: [(c.parts, c.of) for c in site.of(job)] for job in (three, one, whole)}
        assert shares == {three: [(3, 4)], one: [(1, 4)], whole: [(1, 1)]}
        assert all(c.evidence is Evidence.PROLOG for c in site.claims.values())
        assert len(site.asked.read_text().splitlines()) <= 3, "once for each job, or for several"
    site.tenants.close()


def test_without_hooks_the_controller_is_asked(short_tmp_path: Path) -> None:
    site = Site(short_tmp_path, nodes=1, hooks=False)
    slow = Path(site.scontrol).read_text().replace("exec", "sleep 0.4; exec")
    Path(site.scontrol).write_text(slow)
    site.open()
    cluster = site.cluster
    with cluster:
        array = cluster.sbatch("--gres=gpu:1", "--array=1-8%4", "-J", "sweep", script="sleep 1.5")
        site.until(lambda: len(site.facts) == 8 and site.over(*site.facts))
        assert {f.shown for f in site.facts.values()} == {f"{array}_{n}" for n in range(1, 9)}
        held = [c for c in site.claims.values() if c.workload is not None]
        assert {c.evidence for c in held} == {Evidence.SCONTROL}
        assert len({c.workload for c in held}) == 8, "however slowly the controller answers"
        assert len(site.asked.read_text().splitlines()) <= 8
        assert {f.labels.user for f in site.facts.values()} == {"root"}

        # Positions are those that slurmd has read.
        gres = cluster.directory / "gres.conf"
        lines = gres.read_text().splitlines()
        gres.write_text("\n".join(reversed(lines)) + "\n")
        before = cluster.sbatch("--gres=gpu:1", script="sleep 1.5")
        site.until(lambda: site.over(before))
        cluster.run("scontrol", "reconfigure")
        time.sleep(1)
        after = cluster.sbatch("--gres=gpu:1", script="sleep 1.5")
        site.until(lambda: site.over(after))
        assert site.held(before) == {f"GPU-{ORDER[0]}"}
        assert site.held(after) == {f"GPU-{ORDER[-1]}"}
    site.tenants.close()


@pytest.mark.parametrize(
    ("promised", "types"),
    [
        ("gpu:a100:2,gpu:v100:2", "vvaa"),
        ("gpu:a100:2,gpu:v100:2", "vava"),
        ("gpu:v100:1,gpu:a100:2", "aavv"),
        ("gpu:a100:2", "vava"),
        ("gpu:3", "vava"),
        ("gpu:v100:1,gpu:a100:2,gpu:v100:1", "vava"),
    ],
)
def test_gpus_are_counted_as_slurmd_counts_them(
    short_tmp_path: Path, promised: str, types: str
) -> None:
    cluster = SlurmCluster(short_tmp_path, 1, len(types))
    conf = short_tmp_path / "slurm.conf"
    conf.write_text(conf.read_text().replace(f"Gres=gpu:a100:{len(types)}", f"Gres={promised}"))
    names = {"a": "a100", "v": "v100"}
    (short_tmp_path / "gres.conf").write_text(
        "".join(
            f"Name=gpu Type={names[kind]} File={cluster.devices}/nvidia{n}\n"
            for n, kind in enumerate(types)
        )
    )
    ours = load_gres(cluster.nodes[0], conf)
    asked = parse_slurmd_g(cluster.sh(f"slurmd -G -N {cluster.nodes[0]}"))
    assert ours is not None and asked is not None
    assert [p.file for p in ours.positions] == [p.file for p in asked.positions]


def test_accounts_come_from_accounting(short_tmp_path: Path) -> None:
    site = Site(short_tmp_path, nodes=1, accounting=True)
    cluster = site.cluster
    site.open()
    with cluster:
        cluster.run("sacctmgr", "-i", "add", "account", "nlp")
        cluster.run("sacctmgr", "-i", "add", "user", "root", "account=nlp")
        site.until(lambda: "nlp" in cluster.sh("sacctmgr -n show assoc format=account"))
        job = cluster.sbatch("--gres=gpu:1", "-A", "nlp")
        site.until(lambda: site.over(job))
        assert site.fact(job).labels.account == "nlp"
    site.tenants.close()
