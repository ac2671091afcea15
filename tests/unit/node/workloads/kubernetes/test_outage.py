"""The API server is gone for a day: nothing is lost, and neither log nor memory grows."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.node.workloads.kubernetes.pod_world import CARDS, GPU

from joulebook.core.attribution.claims import Claim
from joulebook.core.experiments import DEFAULT_RULES
from joulebook.core.workloads import WorkloadFacts
from joulebook.node.workloads.kubernetes import pods as tabling
from joulebook.node.workloads.kubernetes.api import ApiError, ApiServer
from joulebook.node.workloads.kubernetes.cgroups import PodDirectory, PodLevel
from joulebook.node.workloads.kubernetes.informer import pods_of
from joulebook.node.workloads.kubernetes.kubelet_poller import KubeletPoller
from joulebook.node.workloads.kubernetes.listing import KubeletDevice, ListedPod
from joulebook.node.workloads.kubernetes.pod_object import (
    Container,
    Meta,
    PodObject,
    Reader,
    Spec,
    Variable,
)
from joulebook.node.workloads.kubernetes.source import KubernetesWorkloads
from joulebook.node.workloads.kubernetes.watch import FORBIDDEN_S, RETRY_MOST_S, Watch
from joulebook.node.workloads.rejections import Rejections
from joulebook.units import NS_PER_S

DAY_S = 86_400


class Clock:
    """Stands still until it is reported to go on."""

    epoch = "boot"

    def __init__(self) -> None:
        self.t_ns = NS_PER_S

    def now_ns(self) -> int:
        return self.t_ns

    def boottime_ns(self, t_ns: int) -> int:
        return t_ns


class Day:
    """Stands for the event that ends a watch, and for its time: what waits for it is driven on."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def is_set(self) -> bool:
        return self.passed_s >= DAY_S

    def wait(self, seconds: float) -> bool:
        assert seconds > 0, "never asked again at once"
        self.passed_s += seconds
        return self.is_set()


class Refusing(ApiServer):
    """Answers each question with the next of some errors, round and round."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(Path("/nowhere"))
        self._reasons = reasons
        self.asked = 0

    def get(self, path: str, query: object, *, read_s: float) -> None:  # type: ignore[override]
        self.asked += 1
        reason = self._reasons[self.asked % len(self._reasons)]
        raise ApiError(f"GET {path}: it is gone", reason=reason)


@pytest.mark.parametrize(
    ("reasons", "longest_s"),
    [
        (["unreachable"], RETRY_MOST_S),
        (["unreachable", "busy", "unauthorized"], RETRY_MOST_S),
        (["gone"], RETRY_MOST_S),
        (["garbled"], RETRY_MOST_S),
        (["forbidden"], FORBIDDEN_S),
    ],
)
def test_a_day_of_errors_is_a_question_a_minute_and_one_line_for_each_reason(
    reasons: list[str], longest_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    server, day = Refusing(reasons), Day()
    watch: Watch[PodObject] = Watch(server, pods_of("n1"), Nobody(), Rejections())
    watch._stopping = day  # type: ignore[assignment]
    with caplog.at_level(logging.INFO, "joulebook"):
        watch.run()
    assert DAY_S / (1.5 * longest_s) < server.asked < DAY_S / longest_s + 20
    assert not watch.synced
    said = [] if reasons == ["gone"] else reasons  # which is nothing out of the ordinary
    assert len(caplog.records) == len(said)


class Nobody:
    """Listens to nothing."""

    def listed(self, items: list[PodObject]) -> None:
        raise AssertionError(items)

    def changed(self, item: PodObject) -> None:
        raise AssertionError(item)

    deleted = changed


class Node:
    """A source whose threads stand still: what they would hear is said by hand."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(KubeletPoller, "start", lambda _: None)
        monkeypatch.setattr(Watch, "start", lambda _: None)
        self.clock = Clock()
        self.source = KubernetesWorkloads(
            self.clock,  # type: ignore[arg-type]
            node="n1", reader=Reader(DEFAULT_RULES), socket=folder / "kubelet.sock",
            server=ApiServer(folder), cgroup_root=folder, pod_logs=folder / "logs",
        )  # fmt: skip
        self.source.open(lambda _: None)
        self.claims: dict[str, list[Claim]] = {}
        self.facts: dict[str, WorkloadFacts] = {}
        self.kept: list[int] = []

    def hear(self, *pods: ListedPod) -> None:
        """The kubelet answers, and the daemon books."""
        self.clock.t_ns += NS_PER_S
        self.source._heard(pods, self.clock.t_ns)
        self.book()

    def book(self) -> None:
        found = self.source.holdings(CARDS)
        for claim in found.claims:
            if claim.t1_ns is not None and claim.workload is not None:
                self.claims.setdefault(claim.workload.workload, []).append(claim)
        self.facts |= {fact.id.workload: fact for fact in found.facts}
        self.source.settled()
        self.kept.append(len(list(self.source._table)))

    def run(self, name: str, uid: str) -> tuple[int, int]:
        """A pod comes, holds a card for half a minute, and goes; from when to when."""
        pod = ListedPod("a", name, (KubeletDevice(GPU, "GPU-0"),))
        spots = [
            PodDirectory(Path(f"/{uid}"), PodLevel.POD, uid),
            PodDirectory(Path(f"/{uid}/c"), PodLevel.CONTAINER, uid),
        ]
        began_ns = self.clock.t_ns
        for spot in spots:
            self.source.cgroup_made(spot, True)
        for _ in range(4):  # of one name and one cgroup that are left over, each is the other's
            self.hear(pod)
        self.clock.t_ns += 30 * NS_PER_S
        self.hear(pod)
        ended_ns = self.clock.t_ns
        for spot in reversed(spots):
            self.source.cgroup_gone(spot)
        self.hear(pod)
        for _ in range(3):
            self.hear()
        return began_ns, ended_ns

    def api_returns(self, pods: dict[str, str]) -> None:
        """It lists all pods that there were, each with an experiment."""
        container = Container("main", "image", [Variable("JOULEBOOK_EXPERIMENT", "bert")])
        found = [
            PodObject(Meta(name, "a", uid), Spec("n1", containers=[container]))
            for name, uid in pods.items()
        ]
        watch = self.source._cluster._pods
        assert watch is not None
        watch._listener.listed(found)


def uid_of(n: int) -> str:
    return str(uuid.UUID(int=(n + 1) << 96))


def test_pods_that_came_and_went_in_a_day_are_booked_and_named_afterwards(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(short_tmp_path, monkeypatch)
    watch = node.source._cluster._pods
    assert watch is not None
    watch._after(ApiError("GET /: gone", reason="busy"))  # the outage begins
    pods = {f"p{n}": uid_of(n) for n in range(DAY_S // 60)}
    lives = {}
    for n, (name, uid) in enumerate(pods.items()):
        node.clock.t_ns = max(node.clock.t_ns, n * 60 * NS_PER_S)
        lives[f"{name}.{uid[:8]}"] = node.run(name, uid)
    booked = {who: {(c.t0_ns, c.t1_ns) for c in claims} for who, claims in node.claims.items()}
    assert booked == {who: {life} for who, life in lives.items()}
    assert {fact.labels.experiment for fact in node.facts.values()} == set(lives)
    assert all(len(claims) == 1 for claims in node.claims.values()), "an end is said once"
    assert max(node.kept) <= 3, "what is over is not looked at in every tick"
    assert not node.source._table._bodies
    node.api_returns(pods)
    node.book()
    assert node.facts.keys() == lives.keys()
    assert {fact.labels.experiment for fact in node.facts.values()} == {"bert"}
    node.book()
    assert node.kept[-1] == 0
    assert not node.source._table._unnamed
    node.source.close()


def test_of_more_pods_than_can_be_kept_the_newest_are_named(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tabling, "MAX_PODS", 10)
    node = Node(short_tmp_path, monkeypatch)
    watch = node.source._cluster._pods
    assert watch is not None
    watch._after(ApiError("GET /: gone", reason="busy"))
    pods = {f"p{n}": uid_of(n) for n in range(30)}
    for name, uid in pods.items():
        node.run(name, uid)
    assert len(node.claims) == 30
    assert len(node.source._table._unnamed) == 10
    node.source.close()
