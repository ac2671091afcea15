"""The table of docs/evidence.md: any answer may be late, missing, empty or false.

Programs of two users start, end, leave zombies and hand on their pids, in a /proc of files and in
virtual time; the driver's lists leave some out, name the dead, or do not come; environments cannot
be read; the daemon is restarted. Whatever happens, nobody's energy goes to another, no dead process
holds on, no begin moves, and what was booked to a name keeps it.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from joulebook.core.energy.readings import Component, Meter, ProcessUse, Reading
from joulebook.core.workloads import WorkloadFacts, WorkloadId, merged
from joulebook.node.workload_sources import ProcessOwners
from joulebook.node.workloads.contract import Before
from joulebook.node.workloads.host.procfs import TICK_NS, ProcessStarts
from joulebook.node.workloads.processes.source import ProcessWorkloads

CARD = Meter(Component.GPU, "GPU-a")
SECOND = 10**9
SHIFT_NS = 1_000_000 * SECOND
PLACES = {
    "run": "/user.slice/user-{uid}.slice/session-1.scope",
    "unit": "/system.slice/hub.service",
    "container": "/system.slice/docker-" + "ab" * 32 + ".scope",
}


class Clock:
    """Virtual node time."""

    epoch = "e0e0e0e0-1111"

    def __init__(self) -> None:
        self.t_ns = SHIFT_NS + 1000 * SECOND

    def now_ns(self) -> int:
        return self.t_ns

    def utc_offset_ns(self) -> int:
        return 0

    def boottime_ns(self, t_ns: int) -> int:
        return t_ns - SHIFT_NS


class Program(NamedTuple):
    """What is true of a process."""

    pid: int
    ticks: int
    uid: int
    place: str
    name: str

    @property
    def started_ns(self) -> int:
        return self.ticks * TICK_NS + SHIFT_NS


class Machine:
    """A /proc, the driver's list of it, and a daemon with its ledger."""

    def __init__(self, root: Path) -> None:
        self.proc = root
        (root / "1").mkdir()
        self.clock = Clock()
        self.living: dict[int, Program] = {}
        self.dead: set[int] = set()
        self.truth: dict[tuple[int, int], Program] = {}
        self.ledger: dict[WorkloadId, WorkloadFacts] = {}
        self.owners_of: dict[WorkloadId, set[tuple[int, str]]] = {}
        self.last_ns = 0
        self.start_daemon()

    def start_daemon(self) -> None:
        held = tuple(facts for facts in self.ledger.values() if facts.ended_ns is None)
        self.source = ProcessWorkloads(
            self.clock, node="ws1", proc_root=self.proc, own_pids=False,
            user_of=lambda uid: f"user{uid}",
        )  # fmt: skip
        self.source.open(lambda t_ns: None, Before(held, (), self.last_ns))
        self.owners = ProcessOwners([self.source])
        self.starts = ProcessStarts(self.proc)

    def start(self, pid: int, uid: int, place: str, name: str) -> None:
        self.reap(pid)
        ticks = self.clock.boottime_ns(self.clock.t_ns) // TICK_NS
        program = Program(pid, ticks, uid, place, name)
        self.living[pid] = self.truth[pid, program.started_ns] = program
        self.dead.discard(pid)
        files = self.proc / str(pid)
        files.mkdir()
        self._stat(program, "S")
        (files / "status").write_text(f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        (files / "cgroup").write_text(f"0::{PLACES[place].format(uid=uid)}\n")
        said = f"JOULEBOOK_EXPERIMENT={name}\0" if name else ""
        (files / "environ").write_text(f"HOME=/\0{said}")

    def _stat(self, program: Program, state: str) -> None:
        pid = program.pid
        fields = [state, 1, pid, pid, 0, *[0] * 12, 1, 0, program.ticks, 0]
        (self.proc / str(pid) / "stat").write_text(f"{pid} (python) {' '.join(map(str, fields))}\n")

    def end(self, pid: int, *, zombie: bool) -> None:
        program = self.living.pop(pid, None)
        if program is not None:
            self.dead.add(pid)
            self._stat(program, "Z")
            if not zombie:
                shutil.rmtree(self.proc / str(pid))

    def reap(self, pid: int) -> None:
        self.end(pid, zombie=False)
        shutil.rmtree(self.proc / str(pid), ignore_errors=True)

    def hide(self, pid: int) -> None:
        (self.proc / str(pid) / "environ").unlink(missing_ok=True)

    def listed(self, pids: set[int]) -> Reading:
        """What the daemon makes of the driver's list."""
        uses = tuple(
            ProcessUse(pid, self.starts.started_ns(pid) + SHIFT_NS)
            for pid in sorted(pids)
            if self.starts.lives(pid)
        )
        self.owners.poll()
        return self.source.lived(
            self.owners.identified(Reading(CARD, self.clock.t_ns, 0, processes=uses))
        )

    def commit(self) -> None:
        for facts in self.source.holdings(()).facts:
            known = self.ledger.get(facts.id, WorkloadFacts(facts.id))
            now = self.ledger[facts.id] = merged(known, facts)
            assert not known.started_ns or now.started_ns <= known.started_ns
            assert now.ended_ns is None or now.ended_ns >= now.started_ns
            if known.labels.user:
                assert now.labels == known.labels, "neither owner nor name is another's"
        self.source.settled()
        self.last_ns = self.clock.t_ns

    def check(self, reading: Reading, names_hidden: bool) -> None:
        for use in reading.processes or ():
            true = self.truth[use.pid, use.started_ns]
            lives = self.living.get(use.pid) == true
            assert use.workload is not None and use.marks[-1].workload == use.workload
            assert lives or (use.ended and use.marks[-1].t1_ns is not None), "the dead hold nothing"
            owners = self.owners_of.setdefault(use.workload, set())
            owners.add((true.uid, "" if names_hidden else true.name))
            assert len({uid for uid, _ in owners}) == 1, "one user's is never another's"
            assert names_hidden or len(owners) == 1, "nor is one name's"


PIDS = st.sampled_from([11, 12, 13, 14])
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("start"), PIDS, st.sampled_from([1001, 1002]), st.sampled_from(list(PLACES)),
            st.sampled_from(["", "bert", "vit"]),
        ),
        st.tuples(st.just("end"), PIDS, st.booleans()),
        st.tuples(st.just("hide"), PIDS),
        st.tuples(st.just("list"), st.sampled_from(["true", "none", "empty", "with the dead"])),
        st.tuples(st.just("restart")),
    ),
    min_size=5, max_size=40,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_any_answer_may_be_late_missing_empty_or_false(steps: list[tuple[object, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        hidden = False
        for (kind, *rest), n in zip(steps, itertools.count(1), strict=False):
            machine.clock.t_ns += SECOND + n * 10 * TICK_NS
            if kind == "start":
                machine.start(*rest)  # type: ignore[arg-type]
            elif kind == "end":
                machine.end(rest[0], zombie=bool(rest[1]))  # type: ignore[arg-type]
            elif kind == "hide":
                machine.hide(rest[0])  # type: ignore[arg-type]
                hidden = True
            elif kind == "restart":
                machine.source.close()
                machine.start_daemon()
            elif rest[0] != "none":
                pids = set() if rest[0] == "empty" else set(machine.living)
                pids |= {*machine.dead, 99} if rest[0] == "with the dead" else set()
                machine.check(machine.listed(pids), hidden)
            machine.commit()
        for pid in list(machine.living):
            machine.end(pid, zombie=True)
        machine.check(machine.listed({*machine.dead}), hidden)
        machine.clock.t_ns += 100 * SECOND
        machine.commit()  # what left the device before it ended
        machine.clock.t_ns += 100 * SECOND
        deadline = time.monotonic() + 60
        while any(facts.ended_ns is None for facts in machine.ledger.values()):
            machine.commit()  # users' names come in a thread of their own
            assert time.monotonic() < deadline, machine.ledger
        for facts in machine.ledger.values():
            ((uid, name), *_) = machine.owners_of[facts.id]
            assert facts.labels.user in {f"user{uid}", ""}
            assert hidden or facts.named is bool(name)
        machine.source.close()
