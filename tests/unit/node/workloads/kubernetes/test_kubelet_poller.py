"""When the kubelet is asked: seldom, and a few times soon after something happened."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from tests.fakes.kubelet.kubelet import FakeKubelet

from joulebook.clock import NodeClock
from joulebook.node.workloads.kubernetes.device_ids import ListedPod
from joulebook.node.workloads.kubernetes.kubelet_poller import LOOKS_S, PAUSE_S, KubeletPoller


def test_after_something_happened_it_looks_again_a_few_times(short_tmp_path: Path) -> None:
    """The kubelet lists a pod for some time after its end: one look at once would not see it."""
    polls: list[float] = []

    def heard(_pods: Sequence[ListedPod], _t_ns: int) -> None:
        polls.append(time.monotonic())

    def until(done: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not done():
            assert time.monotonic() < end, polls
            time.sleep(0.02)

    with FakeKubelet(short_tmp_path / "kubelet.sock") as kubelet:
        poller = KubeletPoller(
            kubelet.socket, NodeClock(), 600.0, heard=heard, silent=lambda *_: None,
            offered=lambda _: None, faulty=lambda: None, restless=lambda: False,
        )  # fmt: skip
        poller.start()
        until(lambda: len(polls) == 1)
        happened = time.monotonic()
        poller.soon()
        until(lambda: polls[-1] >= happened + LOOKS_S[-1])
        poller.stop()
    # (On a busy machine some of them may fall together.)
    assert 3 <= len(polls) <= 1 + len(LOOKS_S)
    assert not poller.is_alive()


def test_there_is_a_pause_between_two_questions_whatever_happens(short_tmp_path: Path) -> None:
    asked: list[float] = []
    with FakeKubelet(short_tmp_path / "kubelet.sock") as kubelet:
        poller = KubeletPoller(
            kubelet.socket, NodeClock(), 600.0, heard=lambda *_: asked.append(time.monotonic()),
            silent=lambda *_: None, offered=lambda _: None, faulty=lambda: None,
            restless=lambda: False,
        )  # fmt: skip
        poller.start()
        for _ in range(200):
            poller.soon()
            time.sleep(0.005)
        poller.stop()
    assert len(asked) > 1
    assert all(b - a >= PAUSE_S for a, b in pairwise(asked))


def test_what_plugins_offer_is_asked_for_at_once_when_it_is_wanted(short_tmp_path: Path) -> None:
    offered: list[object] = []
    with FakeKubelet(short_tmp_path / "kubelet.sock") as kubelet:
        poller = KubeletPoller(
            kubelet.socket, NodeClock(), 600.0, heard=lambda *_: None, silent=lambda *_: None,
            offered=offered.append, faulty=lambda: None, restless=lambda: False,
        )  # fmt: skip
        poller.start()
        for n in (1, 2):
            end = time.monotonic() + 30
            while len(offered) < n:
                assert time.monotonic() < end
                time.sleep(0.02)
            poller.ask_offer()
        poller.stop()


def test_a_kubelet_that_cannot_be_connected_is_a_fault_each_time_and_ends_no_thread(
    short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, faults, left = threading.Event(), [0], [3]
    connected = KubeletPoller._connected

    def at_last(poller: KubeletPoller) -> object:
        if left[0]:
            left[0] -= 1
            raise ImportError("no module named grpc")
        return connected(poller)

    def faulty() -> None:
        faults[0] += 1

    monkeypatch.setattr(KubeletPoller, "_connected", at_last)
    with FakeKubelet(short_tmp_path / "kubelet.sock") as kubelet:
        poller = KubeletPoller(
            kubelet.socket, NodeClock(), 0.05, heard=lambda *_: heard.set(),
            silent=lambda *_: None, offered=lambda _: None, faulty=faulty, restless=lambda: False,
        )  # fmt: skip
        poller.start()
        assert heard.wait(30)
        poller.stop()
    assert faults == [3]
