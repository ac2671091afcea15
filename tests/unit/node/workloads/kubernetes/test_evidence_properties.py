"""Any answer may be late, missing, empty or false: docs/evidence.md as a property.

Three slots of a node, each with a card. Pods of one name come and go in a slot, as a StatefulSet
makes them. Cgroups are the kernel's, and so the truth; the kubelet and the API server say what they
like, and the daemon is restarted. Every pod stays on the card that the kubelet gave it. In the last
slot they are static pods, whose mirrors at the API server are made anew.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.node.workloads.kubernetes.pod_world import Still, of, pod
from tests.unit.node.workloads.kubernetes.test_evidence import hostile

from joulebook.core.attribution.claims import Claim, Evidence, admit, merge
from joulebook.node.workloads.contract import Before
from joulebook.node.workloads.kubernetes.pod_object import PodObject
from joulebook.units import NS_PER_S

SLOTS = range(3)
STATIC = 2
"""The slot of static pods."""

Action = tuple[str, int]
STALE_NS = 10 * NS_PER_S
"""So long after its end the kubelet may go on to list a pod."""

ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["begin", "begin", "end", "phase", "hostile"]), st.sampled_from(SLOTS)
        ),
        st.tuples(st.sampled_from(["list", "partial", "stale"]), st.integers(0, 7)),
        st.tuples(
            st.sampled_from(["empty", "silent", "api", "mirror", "api fails"]),
            st.just(0),
        ),
        st.tuples(st.just("restart"), st.sampled_from([0, 0, *range(64)])),
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 2, 5, 20, 90])),
    ),
    max_size=30,
)


class World:
    """The truth, what is said of it, and the ledger that comes of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch
        self.node = Still(folder, monkeypatch)
        self.made = 0
        self.alive: dict[int, str] = {}
        """The uid of the pod in each slot that is not empty."""
        self.ever: dict[str, int] = {}
        self.listed: set[int] = set()
        """The slots of pods that the kubelet listed last."""
        self.ended_ns: dict[int, int] = {}
        self.gone_ns: dict[str, int] = {}
        self.mirrors = 0
        self.claims: tuple[Claim, ...] = ()
        self.affirmed: dict[Evidence, int] = {}
        self.begun: dict[str, int] = {}
        self.proven: set[str] = set()

    def act(self, what: str, n: int) -> None:
        node = self.node
        if what == "begin" and n not in self.alive:
            node.run(self.begin(n))
        elif what == "end" and n in self.alive:
            node.remove(self.end(n))
        elif what == "phase" and n in self.alive and n != STATIC:
            node.api_tells(pod(f"p{n}", self.alive[n], phase="Failed"))
        elif what == "hostile" and n in self.alive and n != STATIC:
            victim = self.alive.get((n + 1) % len(SLOTS), "")
            node.api_tells(hostile(self.alive[n], f"p{n}", victim, namespace="a"))
        elif what == "list":
            self.hear(self.alive)
        elif what == "partial":
            self.hear(k for k in self.alive if n >> k & 1)
        elif what == "stale":
            since_ns = node.clock.t_ns - STALE_NS
            late = [k for k in self.listed if self.ended_ns.get(k, 0) >= since_ns]
            self.hear({*self.alive, *late})
        elif what == "empty":
            self.hear(())
        elif what == "silent":
            node.silent()
        elif what == "api":
            node.api_lists(*map(self.at_the_api, self.alive))
        elif what == "mirror":
            self.mirrors += 1
        elif what == "api fails":
            node.api_fails()
        elif what == "wait":
            node.wait(n)
        elif what == "restart":
            running = (fact for fact in node.facts.values() if fact.ended_ns is None)
            before = Before(tuple(running), self.claims, node.clock.t_ns)
            node.source.close()
            node.wait(1)
            for k in SLOTS:  # what happens meanwhile
                if n >> k & 1 and k in self.alive:
                    self.end(k)
                if n >> k & 8 and k not in self.alive:
                    self.begin(k)
            node.wait(2)
            self.node = Still(self._folder, self._monkeypatch, before=before, clock=node.clock,
                              running=tuple(self.alive.values()))  # fmt: skip
            self.node.facts = node.facts
            self.node.api_fails()
        self.book()

    def begin(self, slot: int) -> str:
        uid = f"{self.made:08x}-0000-4000-8000-000000000000"
        if slot == STATIC:
            uid = f"{self.made:08x}{'cd' * 12}"
        self.made += 1
        self.alive[slot], self.ever[uid] = uid, slot
        return uid

    def end(self, slot: int) -> str:
        uid = self.alive.pop(slot)
        self.ended_ns[slot] = self.gone_ns[uid] = self.node.clock.t_ns
        return uid

    def at_the_api(self, slot: int) -> PodObject:
        uid = self.alive[slot]
        if slot != STATIC:
            return pod(f"p{slot}", uid)
        mirror = f"{self.mirrors:08x}-1111-4000-8000-{uid[:12]}"
        return hostile(mirror, f"p{slot}", uid, namespace="a")

    def hear(self, slots: Iterable[int]) -> None:
        self.listed = set(slots)
        self.node.wait(1)
        listed = [of(f"p{k}", f"GPU-{k}") for k in sorted(self.listed)]
        self.node.source._heard(listed, self.node.clock.t_ns)

    def book(self) -> None:
        """What the ledger makes of it, and what may not be."""
        node = self.node
        found = node.book()
        now_ns = node.clock.t_ns
        claims = merge(self.claims, found.claims, found.complete, self.affirmed)
        self.affirmed |= dict.fromkeys(found.complete, now_ns)
        self.claims = tuple(claim for claim in claims if claim.t1_ns is None)
        for n in SLOTS:
            self.check(n, [claim for claim in claims if claim.meter.name == f"GPU-{n}"], now_ns)
        for who, fact in node.facts.items():
            assert fact.started_ns <= self.begun.setdefault(who, fact.started_ns), "no begin moves"
            self.begun[who] = fact.started_ns
            assert fact.ended_ns is None or fact.ended_ns >= fact.started_ns

    def check(self, n: int, claims: list[Claim], now_ns: int) -> None:
        names = {f"p{n}.{uid[:8]}": uid for uid, slot in self.ever.items() if slot == n}
        for claim in claims:
            assert claim.workload is None or claim.workload.workload in names, "of another slot"
        living = [claim for claim in claims if claim.t1_ns is None]
        holders = admit(living)
        who = {holder.workload.workload for holder in holders if holder.workload is not None}
        uid = self.alive.get(n, "")
        mine = f"p{n}.{uid[:8]}"
        assert who <= {mine}, "a dead pod holds on, or has what another one consumes"
        if who:
            self.proven.add(uid)
        elif uid in self.proven:
            assert holders, "a live holder's energy is nobody's"

    def settle(self) -> None:
        """From now on everybody says the truth."""
        self.act("api", 0)
        for _ in range(15):
            self.act("list", 0)
        held = {
            claim.meter.name: claim.workload.workload
            for claim in self.claims
            if claim.workload is not None
        }
        assert held == {f"GPU-{k}": f"p{k}.{uid[:8]}" for k, uid in self.alive.items()}
        assert len(self.claims) == len(held)
        for who, fact in self.node.facts.items():
            (uid,) = (uid for uid, n in self.ever.items() if who == f"p{n}.{uid[:8]}")
            if uid in self.gone_ns:
                assert fact.ended_ns is not None, "a dead pod runs for ever"
                assert fact.ended_ns <= self.gone_ns[uid], "it ended when it lived no more"
            else:
                assert fact.ended_ns is None, "a live pod is over"


@given(ACTIONS)
@settings(deadline=None, max_examples=150)
def test_whatever_is_said_no_live_holder_pays_for_another_and_no_dead_one_holds(
    actions: list[Action],
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="jb") as folder,
        pytest.MonkeyPatch.context() as monkeypatch,
        contextlib.ExitStack() as exits,
    ):
        world = World(Path(folder), monkeypatch)
        exits.callback(lambda: world.node.source.close())  # noqa: PLW0108 - of the last one
        for what, n in actions:
            world.act(what, n)
        world.settle()
