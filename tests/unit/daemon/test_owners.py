"""Whose a process is: asked once, again while nobody knows, and infrastructure is nobody's."""

from __future__ import annotations

from tests.unit.daemon.stand_ins import JOB, METER

from joulebook.core.devices import DeviceStatus
from joulebook.core.readings import ProcessUse, Reading
from joulebook.core.workloads import INFRASTRUCTURE, WorkloadId
from joulebook.daemon.owners import Owners

SESSION = WorkloadId("process", "session-1")


def reading(*pids: int, busy: bool = True, started_ns: int = 5) -> Reading:
    uses = tuple(ProcessUse(pid, started_ns) for pid in pids)
    return Reading(METER, 1, 0, busy=busy, processes=uses)


def status(use: float | None) -> DeviceStatus:
    return DeviceStatus(METER, 0, 1, values={} if use is None else {"utilization_ratio": use})


def test_the_first_source_that_knows_counts_and_is_asked_once() -> None:
    asked: list[int] = []

    def slurm(pid: int) -> WorkloadId | None:
        asked.append(pid)
        return JOB if pid == 1 else None

    owners = Owners([slurm, lambda pid: SESSION])
    for _ in range(3):
        owners.look()
        seen = owners.named(reading(1, 2))
        assert [p.workload for p in seen.processes or ()] == [JOB, SESSION]
    assert asked == [1, 2]


def test_one_that_nobody_knows_is_asked_about_again() -> None:
    answers = iter([None, None, JOB])
    owners = Owners([lambda pid: next(answers)])
    seen = [owners.named(reading(1)).processes for _ in range(4)]
    assert [p[0].workload for p in seen if p] == [None, None, JOB, JOB]


def test_one_that_left_is_asked_about_when_it_comes_back() -> None:
    asked: list[int] = []

    def source(pid: int) -> WorkloadId:
        asked.append(pid)
        return SESSION

    owners = Owners([source])
    for there in ([1], [2], [2], [1]):
        owners.look()
        owners.named(reading(*there))
    assert asked == [1, 2, 1]
    owners.named(reading(1, started_ns=6))  # another process with that pid
    assert asked == [1, 2, 1, 1]


def test_infrastructure_is_as_if_it_were_not_there() -> None:
    owners = Owners([lambda pid: INFRASTRUCTURE if pid == 1 else SESSION])
    assert [p.pid for p in owners.named(reading(1, 2), status(0.0)).processes or ()] == [2]
    assert owners.named(reading(1, 2), status(0.0)).busy is True
    alone = owners.named(reading(1), status(0.0))
    assert (alone.processes, alone.busy) == ((), False)
    # Also at the looks that ask for no list, until the next that does.
    quick = Reading(METER, 2, 0, busy=True)
    assert owners.named(quick, status(0.0)).busy is False
    assert owners.named(quick, status(0.5)).busy is True
    assert owners.named(quick, status(None)).busy is True, "a card that cannot say is at work"
    owners.named(reading(2), status(0.0))
    assert owners.named(quick, status(0.0)).busy is True


def test_where_pids_are_others_nobody_is_asked() -> None:
    (use,) = Owners([]).named(reading(1)).processes or ()
    assert use.workload is None
