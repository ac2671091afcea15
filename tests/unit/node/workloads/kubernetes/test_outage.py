"""The API server is gone for a day: nothing is lost, and neither log nor memory grows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.scale import scaled
from tests.unit.node.workloads.kubernetes.pod_world import Still, of, uid_of

from joulebook.kubernetes_api.server import ApiError, ApiServer
from joulebook.kubernetes_api.watch import FORBIDDEN_S, RETRY_MOST_S, Watch
from joulebook.node.workloads.contract import Rejections
from joulebook.node.workloads.kubernetes import cgroups
from joulebook.node.workloads.kubernetes.informer import pods_of
from joulebook.node.workloads.kubernetes.pod_object import (
    Container,
    Meta,
    PodObject,
    Spec,
    Variable,
)
from joulebook.units import NS_PER_S

DAY_S = 86_400


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
    watch: Watch[PodObject] = Watch(server, pods_of("n1"), Nobody(), Rejections().fault)
    watch._stopping = day  # type: ignore[assignment]
    with caplog.at_level(logging.INFO, "joulebook"):
        watch.run()
    # The mean of many pauses is the longest one, each by up to half more or less.
    assert 0.8 * DAY_S / longest_s < server.asked < 1.2 * DAY_S / longest_s + 20
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


def live(node: Still, name: str, uid: str) -> tuple[int, int]:
    """A pod comes, holds a card for half a minute, and goes; from when to when."""
    began_ns = node.clock.t_ns
    node.run(uid)
    # Of one name and one cgroup that are left over, each is the other's.
    node.hear_for(4, of(name, "GPU-0"))
    node.hear(of(name, "GPU-0"), after_s=31)
    ended_ns = node.clock.t_ns
    node.remove(uid)
    node.hear(of(name, "GPU-0"))
    node.hear_for(3)
    return began_ns, ended_ns


def api_returns(node: Still, pods: dict[str, str]) -> None:
    """It lists all pods that there were, each with an experiment."""
    container = Container("main", "image", [Variable("JOULEBOOK_EXPERIMENT", "bert")])
    found = [
        PodObject(Meta(name, "a", uid), Spec("n1", containers=[container]))
        for name, uid in pods.items()
    ]
    node.api_lists(*found)


def test_pods_that_came_and_went_in_a_day_are_booked_and_named_afterwards(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Still(short_tmp_path, monkeypatch)
    node.hear()
    node.api_fails()  # the outage begins
    pods = {f"p{n}": uid_of(n) for n in range(min(scaled(150), DAY_S // 60))}
    lives = {}
    for n, (name, uid) in enumerate(pods.items()):
        node.clock.t_ns = max(node.clock.t_ns, n * DAY_S // len(pods) * NS_PER_S)
        lives[f"{name}.{uid[:8]}"] = live(node, name, uid)
    booked = {who: {(c.t0_ns, c.t1_ns) for c in claims} for who, claims in node.closed.items()}
    assert booked == {who: {life} for who, life in lives.items()}
    assert {fact.labels.experiment for fact in node.facts.values()} == set(pods)
    assert all(len(claims) == 1 for claims in node.closed.values()), "an end is said once"
    assert max(node.kept) <= 3, "what is over is not looked at in every tick"
    assert not node.source._table._cgroups
    api_returns(node, pods)
    node.wait(10)  # the outcome of the last one is waited for no longer
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
    monkeypatch.setattr(cgroups, "MAX_PODS", 10)
    node = Still(short_tmp_path, monkeypatch)
    node.hear()
    node.api_fails()
    pods = {f"p{n}": uid_of(n) for n in range(30)}
    for name, uid in pods.items():
        live(node, name, uid)
    assert len(node.closed) == 30
    assert len(node.source._table._unnamed) == 10
    node.source.close()
