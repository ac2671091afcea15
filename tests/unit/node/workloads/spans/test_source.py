"""Marks as users may write them: read from the real directory, of real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from joulebook import experiment, experiment_span
from joulebook.clock import NodeClock
from joulebook.core.energy.readings import Component, Meter, ProcessUse, Reading
from joulebook.core.workloads import WorkloadId
from joulebook.node.workloads.contract import Before
from joulebook.node.workloads.spans import files
from joulebook.node.workloads.spans import source as spans_source
from joulebook.node.workloads.spans import table as spans_table
from joulebook.node.workloads.spans.source import SpanWorkloads
from joulebook.node.workloads.spans.table import MOST_OF_ONE_USER

GPU = Meter(Component.GPU, "GPU-a")


class Node:
    """A source on a directory, and a process that is listed on a card."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = NodeClock()
        self.boundaries: list[int] = []
        self.source = SpanWorkloads(self.clock, directory, user_of=lambda uid: f"u{uid}")
        self.source.open(self.boundaries.append)

    def marks(self, pid: int | None = None, **more: object) -> list[tuple[str, bool]]:
        """The experiments that a process is under as it is listed, and whether they are over."""
        process = replace(ProcessUse(pid or os.getpid(), 1), **more)
        reading = Reading(GPU, self.clock.now_ns(), processes=(process,))
        reported = self.source.marked(reading).processes
        self.facts = {**getattr(self, "facts", {})}
        for fact in self.source.holdings(()).facts:
            self.facts[fact.id] = fact
        self.source.settled()
        assert reported is not None
        return [
            (self.facts[span.workload].labels.experiment, span.t1_ns is not None)
            for span in reported[0].marks
        ]

    def rejected(self) -> dict[str, int]:
        return self.source.holdings(()).rejected

    def until(self, *marks: tuple[str, bool]) -> None:
        end = time.monotonic() + 60
        while self.marks() != list(marks):
            assert time.monotonic() < end, self.marks()
            time.sleep(0.02)

    def until_cleared(self) -> None:
        """What was collected is removed (by the thread that collects, a moment later)."""
        end = time.monotonic() + 60
        while list(self.directory.iterdir()):
            assert time.monotonic() < end, list(self.directory.iterdir())
            time.sleep(0.02)

    def until_rejected(self, reason: str) -> None:
        end = time.monotonic() + 60
        while reason not in self.rejected():
            assert time.monotonic() < end, self.rejected()
            time.sleep(0.02)

    def write(self, name: str, content: bytes, uid: int | None = None) -> Path:
        """A file as it is renamed into the directory."""
        new = self.directory / f".{name}.new"
        new.write_bytes(content)
        if uid is not None:
            os.chown(new, uid, uid)
        new.rename(self.directory / name)
        return self.directory / name


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    directory = tmp_path / "marks"
    monkeypatch.setenv(experiment_span.VARIABLE, str(directory))
    node = Node(directory)
    yield node
    node.source.close()


def mine(n: int = 9) -> str:
    return f"{os.getpid()}-{experiment_span.started_ticks('self')}-{n}.json"


def said(**more: object) -> bytes:
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return json.dumps(
        {"v": 1, "experiment": "bert", "entered_boottime_ns": now_ns, **more}
    ).encode()


def test_a_mark_begins_and_ends_with_its_block_and_nests(node: Node) -> None:
    assert node.marks() == []
    with experiment("outer"):
        node.until(("outer", False))
        with experiment("inner"):
            node.until(("inner", False), ("outer", False))
        node.until(("inner", True), ("outer", False))
    node.until(("inner", True), ("outer", True))
    assert node.boundaries, "each edge asks for a reading at once"
    assert {fact.labels.user for fact in node.facts.values()} == {f"u{os.getuid()}"}
    node.until_cleared()


def test_a_child_is_under_the_marks_of_its_parent_and_may_have_its_own(node: Node) -> None:
    with experiment("of the parent"):
        child = subprocess.Popen(["sleep", "60"])
        try:
            end = time.monotonic() + 60
            while node.marks(child.pid) != [("of the parent", False)]:
                assert time.monotonic() < end
                time.sleep(0.02)
        finally:
            child.kill()
            child.wait()


def test_a_window_is_a_part_of_its_run_and_one_in_it_of_both(node: Node) -> None:
    with experiment("bert") as run:
        node.until(("bert", False))
        with run.window("epoch") as epoch:
            node.until(("bert", False), ("bert", False))
            with epoch.window("validate") as inner:
                node.until(*[("bert", False)] * 3)
        node.until(("bert", True), ("bert", True), ("bert", False))
    node.until(*[("bert", True)] * 3)
    names = {fact.id.workload: fact.name for fact in node.facts.values()}
    assert names == {run.id: "bert", epoch.id: "epoch", inner.id: "validate"}


def test_a_window_is_known_again_after_a_restart(tmp_path: Path, node: Node) -> None:
    with experiment("bert") as run, run.window("epoch") as epoch:
        node.until(("bert", False), ("bert", False))
        before = Before(tuple(node.facts.values()), last_ns=node.clock.now_ns())
        again = SpanWorkloads(node.clock, tmp_path / "other", user_of=lambda uid: f"u{uid}")
        again.open(lambda t_ns: None, before)
        try:
            process = ProcessUse(os.getpid(), 1)
            reading = Reading(GPU, node.clock.now_ns(), processes=(process,))
            (marked,) = again.marked(reading).processes or ()
        finally:
            again.close()
        assert {span.workload.workload for span in marked.marks} == {run.id, epoch.id}


@pytest.mark.parametrize("within", ["x", "1_", "1__2", "-1", "1_2_3_4_5_6_7_8_9", "1" * 10, 1])
def test_a_window_of_nothing_that_can_be_is_rejected(node: Node, within: object) -> None:
    node.write(mine(), said(within=within, window="epoch"))
    node.until_rejected("bad_field")


def test_inside_a_job_of_a_scheduler_a_mark_changes_nothing(node: Node) -> None:
    with experiment("mine"):
        node.until(("mine", False))
        assert node.marks(workload=WorkloadId("slurm", "101")) == []
        assert node.marks(workload=WorkloadId("kubernetes", "pod.0a1b2c3d")) == []
        assert node.marks(workload=WorkloadId("process", "user-1000")) == [("mine", False)]


def test_each_entry_of_a_block_is_a_run_and_gives_its_id(node: Node) -> None:
    ids = []
    for _ in range(3):
        with experiment("epoch") as run:
            ids.append(run.id)
    node.until(("epoch", True), ("epoch", True), ("epoch", True))
    assert [
        fact.id.workload for fact in sorted(node.facts.values(), key=lambda f: f.started_ns)
    ] == (ids)
    assert {fact.ended_ns is None for fact in node.facts.values()} == {False}
    assert {fact.named for fact in node.facts.values()} == {True}


def test_very_many_entries_of_one_block_are_not_as_many_runs(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans_table, "MOST_RUNS", 4)
    for n in range(9):
        node.write(mine(n + 1), said(exited_boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME)))
    node.until(*[("bert", True)] * 9)
    assert len(node.facts) == 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not_json"),
        (b'{"v": 2, "experiment": "x", "entered_boottime_ns": 1}', "bad_field"),
        (b'{"v": 1, "experiment": 7, "entered_boottime_ns": 1}', "bad_field"),
        (b'{"v": 1, "experiment": "x", "entered_boottime_ns": -1}', "bad_field"),
        (b'{"v": 1, "experiment": "x", "entered_boottime_ns": 1e400}', "bad_field"),
        (b'{"v": 1, "experiment": "\\u0000\\u001b", "entered_boottime_ns": 1}', "no_name"),
        (b"\xff\xfe", "not_json"),
        (b" " * 5000, "too_large"),
        (b"[" * 2000 + b"]" * 2000, "bad_field"),
        (b'{"v": 1, "x": ' + b"[" * 1900 + b"]" * 1900 + b"}", "not_json"),
    ],
)
def test_what_is_no_mark_is_refused_and_counted(node: Node, content: bytes, reason: str) -> None:
    node.write(mine(), content)
    node.until_rejected(reason)
    assert node.rejected() == {reason: 1}
    assert node.marks() == []


def test_a_link_a_pipe_and_a_file_of_another_user_are_refused(node: Node, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(said())
    (node.directory / "link").symlink_to(elsewhere)
    (node.directory / "link").rename(node.directory / mine(1))
    node.until_rejected("symlink")
    os.mkfifo(node.directory / "pipe")
    (node.directory / "pipe").rename(node.directory / mine(2))
    node.until_rejected("not_regular")
    if os.getuid() == 0:
        node.write(mine(3), said(), uid=65534)
        node.until_rejected("foreign_owner")
    assert node.marks() == []
    assert elsewhere.exists()


def test_nobody_marks_a_process_of_another_user(node: Node) -> None:
    # As root, of whom else: a process of nobody's, marked by uid 1000; else init, by ourselves.
    root = os.getuid() == 0
    victim = subprocess.Popen(["sleep", "60"], user=65534 if root else None)
    pid = victim.pid if root else 1
    try:
        name = f"{pid}-{experiment_span.started_ticks(pid)}-1.json"
        node.write(name, said(experiment="theirs"), uid=1000 if root else None)
        node.until_rejected("foreign_owner")
        assert node.marks(pid) == []
    finally:
        victim.kill()
        victim.wait()


def test_a_pid_that_was_given_to_another_process_marks_nothing(node: Node) -> None:
    before = f"{os.getpid()}-{experiment_span.started_ticks('self') - 1}-1.json"
    path = node.write(before, said())
    node.write(mine(2), said(experiment="now"))
    node.until(("now", False))
    os.utime(path, (1, 1))  # it has had its time
    end = time.monotonic() + 60
    while path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_times_that_cannot_be_are_moved_to_those_that_can(node: Node) -> None:
    hour_ns = 3600 * 10**9
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    node.write(mine(1), said(entered_boottime_ns=1))
    node.write(mine(2), said(experiment="later", entered_boottime_ns=now_ns + hour_ns))
    node.until(("later", False), ("bert", False))
    reading = Reading(GPU, node.clock.now_ns(), processes=(ProcessUse(os.getpid(), 1),))
    reported = node.source.marked(reading).processes
    assert reported is not None
    later, early = reported[0].marks
    assert later.t0_ns <= node.clock.now_ns()
    began_ns = experiment_span.started_ticks("self") * 10**7
    assert abs(node.clock.boottime_ns(early.t0_ns) - began_ns) < 10**9


def test_one_user_cannot_fill_the_table(node: Node) -> None:
    for n in range(MOST_OF_ONE_USER + 3):
        node.write(mine(n + 1), said(experiment=f"e{n}"))
    node.until_rejected("too_many")
    assert len(node.marks()) <= MOST_OF_ONE_USER


def test_hostile_names_come_out_fit_for_a_label(node: Node) -> None:
    node.write(mine(), said(experiment='a"b\\c{d}\n\x1b[2J\u202e' + "x" * 500))
    end = time.monotonic() + 60
    while not node.marks():
        assert time.monotonic() < end
        time.sleep(0.02)
    ((name, _),) = node.marks()
    assert name.startswith('a"b\\c{d} [2J') and len(name) <= 128
    assert name.isprintable()


@pytest.mark.parametrize(("mode", "reason"), [(0o777, "directory_too_open"), (0o1777, "")])
def test_a_directory_in_which_users_may_remove_each_others_files_is_refused(
    tmp_path: Path, mode: int, reason: str
) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(mode)
    source = SpanWorkloads(NodeClock(), directory)
    source.open(lambda t_ns: None)
    try:
        assert source.holdings(()).rejected == ({reason: 1} if reason else {})
    finally:
        source.close()


def test_a_program_runs_on_whatever_becomes_of_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (tmp_path / "missing", Path("/proc/self/status"), Path("/dev/null")):
        monkeypatch.setenv(experiment_span.VARIABLE, str(place))
        with experiment("x"), experiment("\udcff\0"):
            pass
    with pytest.raises(ZeroDivisionError), experiment("x"):
        _ = 1 / 0
    directory = tmp_path / "marks"
    directory.mkdir()
    monkeypatch.setenv(experiment_span.VARIABLE, str(directory))
    monkeypatch.setattr(experiment_span, "MOST_LEFT", 4)
    for _ in range(20):
        with experiment("no daemon collects"):
            pass
    assert len(list(directory.iterdir())) <= 4


def test_a_forked_child_does_not_end_the_mark_of_its_parent(node: Node) -> None:
    with experiment("parent") as parent:
        node.until(("parent", False))
        child = os.fork()
        if not child:
            parent.leave()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        (path,) = node.directory.iterdir()
        assert b"exited" not in path.read_bytes()
        assert node.marks() == [("parent", False)]


def test_marking_imports_next_to_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import joulebook; "
        "print([m for m in sys.modules if m.split('.')[0] in ('msgspec', 'psutil', 'asyncio', "
        "'pynvml', 'prometheus_client')])"
    )
    root = Path(experiment_span.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(root)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_a_process_in_a_job_that_nobody_knows_yet_is_left_alone(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = "/kubepods/burstable/pod12345678-1234-1234-1234-123456789012/" + "a" * 64
    for path, in_job in (("/slurm/uid_1000/job_7/step_0", True), (pod, True), ("/user", False)):
        monkeypatch.setattr(files, "cgroup_paths", lambda text, path=path: (path,))
        assert files.is_in_job(os.getpid()) is in_job
    monkeypatch.setattr(files, "is_in_job", lambda pid: True)
    with experiment("mine"):
        end = time.monotonic() + 60
        while not node.boundaries:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert node.marks() == []


def test_a_block_entered_before_there_is_a_directory_is_written_when_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "run/marks"
    monkeypatch.setenv(experiment_span.VARIABLE, str(directory))
    monkeypatch.setattr(experiment_span, "FIRST_RETRY_S", 0.01)
    with experiment("early") as early, experiment("left early"):
        pass
    with experiment("early") as early:
        node = Node(directory)
        try:
            node.until(("early", False))
            assert {fact.id.workload for fact in node.facts.values()} == {early.id}
        finally:
            node.source.close()


def test_that_a_file_is_gone_ends_nothing(node: Node) -> None:
    with experiment("swept"):
        node.until(("swept", False))
        for each in node.directory.iterdir():
            each.unlink()
        node.source._poll()
        assert node.marks() == [("swept", False)]
    node.until(("swept", True))


def test_after_a_restart_it_goes_on_while_its_process_lives(node: Node) -> None:
    process = subprocess.Popen(["sleep", "600"])
    name = f"{process.pid}-{experiment_span.started_ticks(process.pid)}-1.json"
    node.write(name, said(experiment="other"))
    with experiment("mine"):
        end = time.monotonic() + 60
        while not (node.marks() and node.marks(process.pid)):
            assert time.monotonic() < end
            time.sleep(0.02)
        facts, last_ns = tuple(node.facts.values()), node.clock.now_ns()
        node.source.close()
        process.kill()
        process.wait()
        for each in node.directory.iterdir():
            each.unlink()
        again = SpanWorkloads(node.clock, node.directory, user_of=lambda uid: f"u{uid}")
        again.open(node.boundaries.append, Before(facts, (), last_ns))
        node.source = again
        over = again.holdings(()).facts
        assert [(f.labels.experiment, f.ended_ns) for f in over] == [("other", last_ns)]
        node.facts |= {fact.id: fact for fact in facts}
        assert node.marks() == [("mine", False)]


@pytest.mark.parametrize("junk", [b"", b"[" * 2000, b'{"v": 1, "x": ' + b"[" * 1900])
def test_no_file_keeps_the_daemon_from_starting(tmp_path: Path, junk: bytes) -> None:
    directory = tmp_path / "marks"
    files.make_directory(directory)
    (directory / mine(1)).write_bytes(junk + b"]" * junk.count(b"["))
    node = Node(directory)
    try:
        (directory / mine(2)).write_bytes(said())
        node.source._poll()
        assert node.marks() == [("bert", False)]
    finally:
        node.source.close()


def test_the_files_of_one_user_are_not_in_the_way_of_another(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans_source, "MOST_FILES", 8)
    with experiment("honest"):
        node.until(("honest", False))
        for n in range(40):
            (node.directory / f"4194{n:03}-1-1.json").write_bytes(b"{}")
            (node.directory / f"junk-{n}").write_bytes(b"x")
        (node.directory / "large").write_bytes(b"x" * (files.MAX_BYTES + 1))
        node.source._poll()
        assert len(list(node.directory.iterdir())) <= 9
        assert node.rejected()["quota"] >= 72
        assert node.marks() == [("honest", False)]


def test_in_a_directory_of_others_only_our_names_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans_source, "MOST_FILES", 2)
    tmp_path.chmod(0o1777)
    (tmp_path / "precious").write_bytes(b"x" * 9999)
    for n in range(9):
        (tmp_path / f"precious-{n}").touch()
        (tmp_path / f"4194{n:03}-1-1.json").touch()
    source = SpanWorkloads(NodeClock(), tmp_path)
    source.open(lambda t_ns: None)
    source.close()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 10 + 2
