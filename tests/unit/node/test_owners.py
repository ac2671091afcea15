"""Whose a process is: asked once, again while nobody knows, and infrastructure is nobody's."""

from __future__ import annotations

from collections.abc import Callable

from tests.unit.node.stand_ins import JOB, METER, Jobs

from joulebook.core.energy.readings import DeviceStatus, ProcessUse, Reading
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadId
from joulebook.node.workload_sources import ASK_AGAIN_S, ProcessOwners

SESSION = WorkloadId("process", "session-1")


def reading(*pids: int, busy: bool = True, started_ns: int = 5) -> Reading:
    uses = tuple(ProcessUse(pid, started_ns) for pid in pids)
    return Reading(METER, 1, 0, busy=busy, processes=uses)


def status(use: float | None) -> DeviceStatus:
    return DeviceStatus(METER, 0, 1, values={} if use is None else {"utilization_ratio": use})


class Source(Jobs):
    """A source that says what `says` does, and notes what it is asked."""

    def __init__(self, says: Callable[[int], WorkloadId | None]) -> None:
        super().__init__()
        self.says = says

    def identify(self, pid: int) -> WorkloadId | None:
        self.asked.append(pid)
        return self.says(pid)


def test_the_first_source_that_knows_counts_and_is_asked_once() -> None:
    slurm = Source(lambda pid: JOB if pid == 1 else None)
    owners = ProcessOwners([slurm, Source(lambda pid: SESSION)])
    for _ in range(3):
        owners.poll()
        seen = owners.identified(reading(1, 2))
        assert [p.workload for p in seen.processes or ()] == [JOB, SESSION]
    assert slurm.asked == [1, 2]


def test_one_that_nobody_knows_is_asked_about_again_but_not_at_once() -> None:
    answers, now_s = iter([None, None, JOB]), [100.0]
    owners = ProcessOwners([Source(lambda pid: next(answers))], lambda: now_s[0])
    found = []
    for _ in range(6):
        found += [p.workload for p in owners.identified(reading(1)).processes or ()]
        now_s[0] += ASK_AGAIN_S / 2
    assert found == [None, None, None, None, JOB, JOB]


def test_one_that_left_is_asked_about_when_it_comes_back() -> None:
    source = Source(lambda pid: SESSION)
    owners = ProcessOwners([source])
    for there in ([1], [2], [2], [1]):
        owners.poll()
        owners.identified(reading(*there))
    assert source.asked == [1, 2, 1]
    owners.identified(reading(1, started_ns=6))  # another process with that pid
    assert source.asked == [1, 2, 1, 1]


def test_infrastructure_is_as_if_it_were_not_there() -> None:
    owners = ProcessOwners([Source(lambda pid: INFRASTRUCTURE if pid == 1 else SESSION)])
    both = owners.identified(reading(1, 2)).processes or ()
    assert [p.workload for p in both] == [INFRASTRUCTURE, SESSION]
    not_asked = Reading(METER, 2, 0)
    assert owners.identified(not_asked) is not_asked


def test_where_pids_are_others_nobody_is_asked() -> None:
    (use,) = ProcessOwners([]).identified(reading(1)).processes or ()
    assert use.workload is None
