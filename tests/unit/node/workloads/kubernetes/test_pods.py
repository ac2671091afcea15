"""Whatever the order in which kubelet, cgroups and API server speak, tenures stay in order."""

from __future__ import annotations

import uuid
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulebook.node.workloads.kubernetes.allocation import MAX_LEFT, PodCgroup
from joulebook.node.workloads.kubernetes.cgroups import PodDirectory, PodLevel, PodNames
from joulebook.node.workloads.kubernetes.device_ids import KubeletDevice, ListedPod
from joulebook.node.workloads.kubernetes.pod_object import PodInfo
from joulebook.node.workloads.kubernetes.pods import PodTable
from joulebook.units import NS_PER_S

PODS = range(3)
UIDS = [str(uuid.UUID(int=n)) for n in PODS]
DEVICE = KubeletDevice("nvidia.com/gpu", "GPU-0")
CLAIMED = KubeletDevice("", "gpu.nvidia.com/n1/gpu-1")

steps = st.lists(
    st.one_of(
        st.tuples(st.just("list"), st.sets(st.sampled_from(PODS))),
        st.tuples(st.just("silent"), st.just(set())),
        st.tuples(st.just("made"), st.sets(st.sampled_from(PODS), min_size=1)),
        st.tuples(st.just("gone"), st.sets(st.sampled_from(PODS), min_size=1)),
        st.tuples(st.just("reported"), st.sets(st.sampled_from(PODS))),
        st.tuples(st.just("done"), st.sets(st.sampled_from(PODS), min_size=1)),
    ),
    max_size=40,
)


def pod_spot(n: int) -> PodDirectory:
    return PodDirectory(Path(f"/{n}"), PodLevel.POD, UIDS[n])


def container_spot(n: int) -> PodDirectory:
    return PodDirectory(Path(f"/{n}/c"), PodLevel.CONTAINER, UIDS[n], "c")


@given(steps, st.lists(st.integers(0, 4 * NS_PER_S), min_size=40, max_size=40))
def test_tenures_of_a_pod_are_in_order_and_do_not_overlap(
    said: list[tuple[str, set[int]]], gaps: list[int]
) -> None:
    table = PodTable(lambda device: True)
    now_ns = NS_PER_S
    for (what, which), gap_ns in zip(said, gaps, strict=False):
        now_ns += 1 + gap_ns
        if what == "list":
            devices = (DEVICE, CLAIMED)
            table.listed([ListedPod("a", f"p{n}", devices[:1] if n else devices) for n in which],
                         now_ns)  # fmt: skip
        elif what == "silent":
            table.silent(now_ns)
        elif what == "reported":
            table.relisted([PodInfo(UIDS[n], "a", f"p{n}") for n in which], now_ns)
        for n in which:
            if what == "made":
                table.cgroup_made(pod_spot(n), now_ns, live=True)
                table.cgroup_made(container_spot(n), now_ns, live=True)
            elif what == "gone":
                table.cgroup_gone(container_spot(n), now_ns)
                table.cgroup_gone(pod_spot(n), now_ns)
            elif what == "done":
                table.reported(PodInfo(UIDS[n], "a", f"p{n}", done=True), now_ns)
        table.review(now_ns)
        for allocation in table:
            assert allocation.since_ns <= now_ns
            for device in allocation.devices:
                held = sorted(
                    (g.t0_ns, now_ns + 1 if g.t1_ns is None else g.t1_ns)
                    for g in allocation.grants
                    if g.device == device
                )
                assert all(t0 <= t1 for t0, t1 in held)
                assert all(a[1] <= b[0] for a, b in pairwise(held))
            open_now = [g for g in allocation.grants if g.t1_ns is None]
            assert not (allocation.ended_ns is not None and open_now)
            assert len({g.device for g in open_now}) == len(open_now)


def test_whether_processes_live_is_read_of_pods_in_doubt_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[Path] = []

    def has_processes(path: Path) -> bool:
        read.append(path)
        return True

    monkeypatch.setattr(
        "joulebook.node.workloads.kubernetes.allocation.has_processes", has_processes
    )
    table = PodTable(lambda device: True)
    for n in PODS:
        table.cgroup_made(container_spot(n), 1, live=True)
    table.relisted([PodInfo(UIDS[n], "a", f"p{n}") for n in PODS], 1)
    listed = [ListedPod("a", f"p{n}", (DEVICE,)) for n in PODS]

    def reviewed(pods: list[ListedPod], now_s: int) -> list[Path]:
        read.clear()
        table.listed(pods, now_s * NS_PER_S)
        table.review((now_s + 5) * NS_PER_S)
        return read

    assert reviewed(listed, 1) == []
    assert reviewed(listed[1:], 10) == [container_spot(0).path], "it is not listed any more"


def test_of_pods_of_one_name_the_newest_that_may_be_there_counts() -> None:
    names = PodNames(list)
    for n, created in enumerate(("2026-01-01", "2026-01-03", "2026-01-02")):
        names.tell(PodInfo(UIDS[n], "a", "web", created=created))
    assert names.uid("a", "web") == UIDS[1]
    assert names.uid("a", "web", but=UIDS[1]) == UIDS[2]
    names.gone(UIDS[1], ("a", "web"))
    assert names.uid("a", "web") == UIDS[2]
    names.delete(UIDS[2])
    names.forget([])
    assert names.uid("a", "web") == UIDS[0]
    assert names.uid("a", "other") == ""


def test_a_sandbox_that_outlives_its_containers_does_not_count() -> None:
    body = PodCgroup("u")
    for name in ("sandbox", "main", "init"):
        body.made(PodDirectory(Path(f"/p/{name}"), PodLevel.CONTAINER, "u", name), 1, live=True)
    own = frozenset({"main", "init"})
    body.gone(PodDirectory(Path("/p/init"), PodLevel.CONTAINER, "u", "init"), 5)
    assert body.left_ns(own) is None
    body.gone(PodDirectory(Path("/p/main"), PodLevel.CONTAINER, "u", "main"), 9)
    assert body.left_ns(own) == 9
    assert body.left_ns(frozenset()) is None, "without ids nobody can tell which the sandbox is"
    body.gone(PodDirectory(Path("/p/sandbox"), PodLevel.CONTAINER, "u", "sandbox"), 12)
    assert (body.ended_ns(own), body.ended_ns(frozenset())) == (9, 12)


def test_a_kubelet_that_has_just_come_back_is_given_longer_to_list_a_pod() -> None:
    table = PodTable(lambda device: True)
    pods = [ListedPod("a", "p0", (DEVICE,)), ListedPod("a", "p1", ())]

    def ended(heard_s: int, pods: list[ListedPod], now_s: int) -> int | None:
        table.listed(pods, heard_s * NS_PER_S)
        table.review(now_s * NS_PER_S)
        return next(r.ended_ns for r in table if r.name == "p0")

    ended(1, pods, 1)
    table.silent(2 * NS_PER_S)
    assert ended(3, pods[1:], 5) is None
    assert ended(6, pods, 6) is None
    assert ended(30, pods[1:], 32) == 30 * NS_PER_S, "else it has ended when it is not listed"


def test_a_container_that_crashes_for_ever_takes_no_more_memory() -> None:
    body = PodCgroup("u")
    body.made(pod_spot(0), 0, live=True)
    for n in range(1000):
        spot = PodDirectory(Path(f"/0/{n}"), PodLevel.CONTAINER, UIDS[0], f"c{n}")
        body.made(spot, 2 * n, live=True)
        body.gone(spot, 2 * n + 1)
    assert len(body.left) == MAX_LEFT
    assert body.left_ns(frozenset({"c999"})) == body.left_ns(frozenset()) == 1999


def test_a_pod_has_one_directory_in_each_hierarchy() -> None:
    body = PodCgroup("u")
    for hierarchy in ("cpu", "memory"):
        body.made(PodDirectory(Path(f"/{hierarchy}/p"), PodLevel.POD, "u"), 3, live=True)
        body.made(
            PodDirectory(Path(f"/{hierarchy}/p/c"), PodLevel.CONTAINER, "u", "c"), 4, live=True
        )
    body.gone(PodDirectory(Path("/cpu/p/c"), PodLevel.CONTAINER, "u", "c"), 8)
    assert body.left_ns(frozenset()) is None
    body.gone(PodDirectory(Path("/memory/p/c"), PodLevel.CONTAINER, "u", "c"), 9)
    assert (body.began_ns, body.left_ns(frozenset())) == (3, 9)
    assert body.ended_ns(frozenset()) is None
    for hierarchy in ("cpu", "memory"):
        body.gone(PodDirectory(Path(f"/{hierarchy}/p"), PodLevel.POD, "u"), 10)
    assert body.ended_ns(frozenset()) == 9
