"""What an answer proves, and what its silence does not: docs/evidence.md, line by line."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.node.workloads.kubernetes.pod_world import (
    CARDS,
    UTC_NS,
    Still,
    of,
    pod,
    uid_of,
)

from joulebook.core.experiments import DEFAULT_RULES
from joulebook.core.workloads import merged
from joulebook.node.workloads.contract import NOTHING_HELD, Before
from joulebook.node.workloads.kubernetes.cgroups import LogFolder
from joulebook.node.workloads.kubernetes.device_ids import Described
from joulebook.node.workloads.kubernetes.informer import Cluster
from joulebook.node.workloads.kubernetes.pod_object import (
    Meta,
    OwnerReference,
    PodObject,
    Reader,
    Spec,
)
from joulebook.units import NS_PER_S

A, B, C = (uid_of(n) for n in range(3))
Make = Callable[..., Still]


@pytest.fixture
def make(short_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes nodes; a second one is the first after a restart of the daemon."""
    return lambda **given: Still(short_tmp_path, monkeypatch, **given)


def two_pods(make: Make) -> Still:
    """Pods a and b with a card each, known to everybody."""
    node = make()
    node.run(A)
    node.run(B)
    node.api_lists(pod("a", A), pod("b", B))
    node.hear_for(3, of("a", "GPU-0"), of("b", "GPU-1"))
    assert node.holders() == {"GPU-0": "a", "GPU-1": "b"}
    return node


def restarted(make: Make, node: Still, *, running: tuple[str, ...], before: Before | None = None,
              away_s: float = 20, cgroups: bool = True) -> Still:  # fmt: skip
    node.source.close()
    kept = node.ledger() if before is None else before
    node.wait(away_s)
    return make(before=kept, clock=node.clock, running=running, cgroups=cgroups)


# -- the API server is silent


def test_after_a_restart_without_the_api_server_what_the_ledger_held_goes_on(make: Make) -> None:
    node = two_pods(make)
    begun = {who: fact.started_ns for who, fact in node.facts.items()}
    node = restarted(make, node, running=(A, B))
    node.api_fails()
    for _ in range(30):
        node.hear(of("a", "GPU-0"), of("b", "GPU-1"))
        assert node.holders() == {"GPU-0": "a", "GPU-1": "b"}
    assert {who: fact.started_ns for who, fact in node.facts.items()} == begun
    node.api_lists(pod("a", A), pod("b", B))
    node.hear(of("a", "GPU-0"), of("b", "GPU-1"))
    assert node.holders() == {"GPU-0": "a", "GPU-1": "b"}
    assert not node.closed


def test_before_the_kubelet_has_answered_the_ledger_is_believed(make: Make) -> None:
    node = restarted(make, two_pods(make), running=(A, B))
    node.api_fails()
    node.silent()
    assert node.holders() == {"GPU-0": "a", "GPU-1": "b"}
    assert not node.complete


def test_a_pod_made_anew_under_its_name_is_another(make: Make) -> None:
    node = restarted(make, two_pods(make), running=(B, C))
    node.api_fails()
    node.hear_for(4, of("a", "GPU-0"), of("b", "GPU-1"))
    assert all(claim.workload is None or claim.workload.workload != f"a.{A[:8]}"
               for claim in node.open_claims)  # fmt: skip
    assert node.holders()["GPU-1"] == "b"


def test_replicas_go_on_though_the_plugin_offers_none_any_more(make: Make) -> None:
    """As after time slicing was turned off while pods run."""
    node = make()
    node.offer(*(f"GPU-0::{n}" for n in range(4)))
    node.run(A)
    node.run(B)
    pods = pod("a", A), pod("b", B)
    listed = of("a", "GPU-0::0", "GPU-0::1"), of("b", "GPU-0::3")
    node.api_lists(*pods)
    node.hear_for(3, *listed)
    held = {c.workload: (c.parts, c.of) for c in node.open_claims}
    assert sorted(held.values()) == [(1, 4), (2, 4)]
    node = restarted(make, node, running=(A, B))
    node.api_lists(*pods)
    node.offer("GPU-0")
    node.hear_for(4, *listed)
    assert {c.workload: (c.parts, c.of) for c in node.open_claims} == held
    assert not node.closed
    assert not node.source._rejections.counts()


def test_two_pods_whose_uids_begin_alike_go_on_each_for_itself(make: Make) -> None:
    alike = [A[:35] + each for each in "ef"]
    node = make()
    for uid in alike:
        node.run(uid)
    node.api_lists(pod("a", alike[0]), pod("b", alike[1]))
    node.hear_for(3, of("a", "GPU-0"), of("b", "GPU-1"))
    node = restarted(make, node, running=tuple(alike))
    node.api_fails()
    node.hear_for(4, of("a", "GPU-0"), of("b", "GPU-1"))
    assert node.holders() == {"GPU-0": "a", "GPU-1": "b"}
    assert not node.closed
    node.remove(alike[0])
    node.hear_for(4, of("b", "GPU-1"))
    assert node.holders() == {"GPU-1": "b"}


def test_two_pods_made_anew_are_somebody(make: Make) -> None:
    node = restarted(make, two_pods(make), running=(C, uid_of(3)))
    node.api_fails()
    node.hear_for(4, of("a", "GPU-0"), of("b", "GPU-1"))
    assert node.holders() == {"GPU-0": "?", "GPU-1": "?"}


def test_a_pod_with_other_devices_than_the_ledgers_is_another(make: Make) -> None:
    node = restarted(make, two_pods(make), running=(A, B))
    node.api_fails()
    node.hear_for(4, of("a", "GPU-2"), of("b", "GPU-1"))
    assert node.holders() == {"GPU-1": "b", "GPU-2": "?"} or node.holders()["GPU-2"] != "b"
    assert "GPU-0" not in node.holders()


@pytest.mark.parametrize("tree", [True, False], ids=["cgroups", "no-cgroups"])
def test_a_pod_that_ended_while_the_daemon_was_away_ended_when_it_last_lived(
    make: Make, tree: bool
) -> None:
    """Also one that held nothing: else it would run for ever."""
    node = make()
    for uid in (A, B, C) if tree else ():
        node.run(uid)
    guest = of("guest")
    node.api_lists(pod("a", A), pod("b", B), pod("guest", C))
    node.hear_for(3, of("a", "GPU-0"), of("b", "GPU-1"), guest)
    last_ns = node.clock.t_ns
    node = restarted(make, node, running=(B,) if tree else (), cgroups=tree)
    node.api_fails()
    node.silent()
    assert bool(node.facts) is tree, "without cgroups the kubelet must answer first"
    node.hear_for(4, of("b", "GPU-1"))
    if tree:
        assert node.holders() == {"GPU-1": "b"}
    ends = {who: fact.ended_ns for who, fact in node.facts.items() if fact.ended_ns is not None}
    assert ends == {f"a.{A[:8]}": last_ns, f"guest.{C[:8]}": last_ns}
    assert [claim.t1_ns for claim in node.closed[f"a.{A[:8]}"]] == [last_ns]


def test_a_pod_that_begins_again_after_a_reboot_is_the_same(make: Make) -> None:
    node = two_pods(make)
    begun = {who: fact.started_ns for who, fact in node.facts.items()}
    node = restarted(make, node, running=())
    node.hear()
    assert all(fact.ended_ns for fact in node.facts.values())
    node.run(A)
    node.api_lists(pod("a", A), pod("b", B))
    node.hear_for(3, of("a", "GPU-0"))
    assert node.holders() == {"GPU-0": "a"}
    allocation = node.source._table.of_uid(A)
    assert allocation is not None and allocation.reported is not None
    fact = allocation.reported  # with an open claim, by which the ledger takes the end back
    assert (fact.ended_ns, fact.started_ns) == (None, begun[f"a.{A[:8]}"])


def test_one_that_is_resumed_ends_when_its_processes_were_last_seen(make: Make) -> None:
    node = restarted(make, two_pods(make), running=(A, B))
    node.api_fails()
    node.hear_for(5)  # of a kubelet that was restarted too, and lists nobody
    assert node.holders() == {"GPU-0": "a", "GPU-1": "b"}
    node.empty(A)
    left_ns = node.clock.t_ns
    node.hear_for(12)
    assert node.holders() == {"GPU-1": "b"}
    assert node.facts[f"a.{A[:8]}"].ended_ns == left_ns


def test_one_that_is_resumed_ends_with_its_cgroup_though_the_kubelet_lists_none(make: Make) -> None:
    node = restarted(make, two_pods(make), running=(A, B))
    node.api_fails()
    node.hear_for(15)  # of a kubelet that was restarted too
    assert node.holders() == {"GPU-0": "a", "GPU-1": "b"}
    node.remove(A)
    ended_ns = node.clock.t_ns
    node.hear()
    assert node.holders() == {"GPU-1": "b"}
    (claim,) = node.closed[f"a.{A[:8]}"]
    assert claim.t1_ns == ended_ns
    assert node.facts[f"a.{A[:8]}"].ended_ns == ended_ns


SHARED = "gpu.nvidia.com/n1/gpu-0"
SHARERS = (of("a", SHARED, resource=""), of("b", SHARED, resource=""))


def two_sharers(make: Make) -> Still:
    """Two pods that hold the same device by DRA."""
    node = make()
    node.run(A)
    node.run(B)
    node.api_lists(pod("a", A), pod("b", B))
    node.source._cluster._slices.described = {SHARED: Described("GPU-0")}
    node.hear_for(4, *SHARERS)
    return node


def test_shared_devices_of_dra_go_on_without_their_slices(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cluster, "is_pending", lambda *_: False)
    node = two_sharers(make)
    parts = [(claim.parts, claim.of) for claim in node.open_claims]
    assert parts == [(1, 2), (1, 2)]
    node = restarted(make, node, running=(A, B))
    node.api_fails()
    node.hear_for(5, *SHARERS)
    assert node.holders() == {"GPU-0": "a,b"}
    assert [(claim.parts, claim.of) for claim in node.open_claims] == parts


@pytest.mark.parametrize("folders", [True, False], ids=["log folders", "no uid"])
def test_of_a_claim_of_dra_the_rest_is_of_who_is_left(make: Make, folders: bool) -> None:
    """One of two ended while the daemon was away, and no slice can be asked for."""
    node = two_sharers(make)
    node = restarted(make, node, running=(B,))
    node.api_fails()
    if folders:
        node.source._table._names._folders = lambda: [LogFolder("a", "b", B, 0)]
    node.hear_for(3, SHARERS[1])
    assert node.holders() == {"GPU-0": "b"}
    node.source._cluster._slices_since = -1e9  # they have been waited for
    node.hear_for(3, SHARERS[1])
    assert node.holders() == {"GPU-0": "b"}
    assert [(claim.parts, claim.of) for claim in node.open_claims] == [(1, 1)]


@pytest.mark.parametrize("static", [(), (of("etcd-n1"),)], ids=["empty", "static pods"])
def test_a_kubelet_that_lists_no_pods_for_long_ends_none_that_lives(
    make: Make, static: tuple[object, ...]
) -> None:
    node = two_pods(make)
    node.api_fails()
    node.silent(after_s=5)
    for _ in range(60):
        node.hear(*static)  # type: ignore[arg-type]
        assert node.holders() == {"GPU-0": "a", "GPU-1": "b"}
    node.empty(A)
    ended_ns = node.clock.t_ns
    node.hear(*static)  # type: ignore[arg-type]
    assert node.holders() == {"GPU-1": "b"}
    assert node.closed[f"a.{A[:8]}"][0].t1_ns == ended_ns
    node.hear(of("b", "GPU-1"))
    assert node.holders() == {"GPU-1": "b"}


def test_a_pod_without_a_uid_is_not_over_while_somebodys_processes_run(make: Make) -> None:
    node = make(api=False)
    for uid in (A, B):
        node.run(uid)
    node.hear_for(4, of("a", "GPU-0"), of("b", "GPU-1"))
    assert node.holders() == {"GPU-0": "?", "GPU-1": "?"}
    node.silent()
    node.hear_for(20)
    assert node.holders() == {"GPU-0": "?", "GPU-1": "?"}
    node.remove(A)
    node.hear_for(3)
    assert len(node.holders()) == 1
    node.remove(B)
    node.hear_for(8)
    assert node.holders() == {}


def test_without_cgroups_a_restarted_kubelet_is_not_believed_while_the_api_is_silent(
    make: Make,
) -> None:
    node = make()
    node.api_lists(pod("a", A))
    node.hear_for(3, of("a", "GPU-0"))
    node.api_fails()
    node.silent()
    node.hear_for(60)
    assert node.holders() == {"GPU-0": "a"}
    node.api_lists()
    node.hear_for(8)
    assert node.holders() == {}


def test_a_pod_that_the_kubelet_no_longer_lists_has_ended_when_nothing_of_it_lives(
    make: Make,
) -> None:
    node = two_pods(make)
    node.empty(A)
    node.hear(of("b", "GPU-1"))
    gone_ns = node.clock.t_ns
    node.hear_for(2, of("b", "GPU-1"))
    assert node.holders() == {"GPU-1": "b"}
    assert node.closed[f"a.{A[:8]}"][0].t1_ns == gone_ns


def test_a_stateful_set_makes_its_pod_anew_in_an_outage(make: Make) -> None:
    node = two_pods(make)
    node.api_fails()
    node.remove(A)
    ended_ns = node.clock.t_ns
    node.run(C)
    node.hear_for(9, of("a", "GPU-0"), of("b", "GPU-1"))
    assert node.holders() == {"GPU-1": "b"}, "the kubelet may not have noticed yet"
    node.hear_for(6, of("a", "GPU-0"), of("b", "GPU-1"))
    (claim,) = [claim for claim in node.open_claims if claim.meter.name == "GPU-0"]
    assert claim.workload is not None
    assert claim.workload.workload == f"a.{C[:8]}"
    assert node.closed[f"a.{A[:8]}"][0].t1_ns == ended_ns


# -- the end


def test_a_pod_that_succeeded_holds_nothing_though_it_is_listed(make: Make) -> None:
    node = make()  # no cgroups are seen
    node.api_lists(pod("a", A), pod("b", B))
    node.hear_for(3, of("a", "GPU-0"), of("b", "GPU-0"))
    node.api_tells(pod("a", A, phase="Succeeded"))
    told_ns = node.clock.t_ns
    node.hear(of("a", "GPU-0"), of("b", "GPU-0"))
    assert node.holders() == {"GPU-0": "b"}
    assert node.closed[f"a.{A[:8]}"][0].t1_ns == told_ns


def test_the_api_server_says_when_a_pod_ended(make: Make) -> None:
    node = make()
    node.api_lists(pod("a", A))
    node.hear_for(3, of("a", "GPU-0"))
    ended_ns = node.clock.t_ns
    node.wait(4)
    second = (ended_ns + UTC_NS) // NS_PER_S
    finished = datetime.fromtimestamp(second, UTC).isoformat().replace("+00:00", "Z")
    node.api_tells(pod("a", A, phase="Failed", finished=finished))
    node.hear(of("a", "GPU-0"))
    t1_ns = node.closed[f"a.{A[:8]}"][0].t1_ns
    assert t1_ns is not None
    assert abs(t1_ns - ended_ns) <= NS_PER_S // 2


@pytest.mark.parametrize("running", [(), (A,)], ids=["gone", "its sandbox is left"])
def test_after_a_restart_a_pod_that_succeeded_does_not_take_its_card_back(
    make: Make, running: tuple[str, ...]
) -> None:
    node = make(running=(*running, B))
    over = pod("a", A, phase="Succeeded", containers=("ab" * 32,))
    node.api_lists(over, pod("b", B))
    node.hear_for(5, of("a", "GPU-0"), of("b", "GPU-0"))
    assert node.holders() == {"GPU-0": "b"}
    assert f"a.{A[:8]}" not in {*node.facts, *node.closed}


def test_a_phase_that_is_false_ends_nothing_whose_containers_run(make: Make) -> None:
    node = two_pods(make)
    node.api_tells(pod("a", A, phase="Failed"))
    node.hear_for(10, of("a", "GPU-0"), of("b", "GPU-1"))
    assert node.holders() == {"GPU-0": "a", "GPU-1": "b"}


def test_a_finished_pod_has_no_part_of_a_claim_that_is_shared_by_name(make: Make) -> None:
    node = make()
    node.source._cluster._slices.described = {}
    node.api_lists(pod("a", A), pod("b", B))
    node.source._cluster._slices.described = {SHARED: Described("GPU-0")}
    node.hear_for(4, *SHARERS)
    assert {claim.of for claim in node.open_claims} == {2}
    node.api_tells(pod("a", A, phase="Succeeded"))
    node.hear_for(2, *SHARERS)
    assert [(claim.of, claim.workload) for claim in node.open_claims] == [
        (1, node.source._table.here("a", "b").id)  # type: ignore[union-attr]
    ]


# -- whose a cgroup is


def hostile(uid: str, name: str, victim: str, *, namespace: str = "team-b") -> PodObject:
    said = {"kubernetes.io/config.hash": victim, "kubernetes.io/config.mirror": victim}
    owners = [OwnerReference("Node", "n1", True)]
    meta = Meta(name, namespace, uid, annotations=said, owner_references=owners)
    return PodObject(meta, Spec("n1"))


@pytest.mark.parametrize("first", ["victim", "attacker"])
def test_no_annotation_takes_a_pods_cgroup_away(make: Make, first: str) -> None:
    node = make()
    node.run(A)
    node.run(C)
    said = [pod("a", A), hostile(C, "attacker", A)]
    for each in said if first == "victim" else reversed(said):
        node.api_tells(each)
    node.watch.problem = ""
    listed = (of("a", "GPU-0"), of("attacker", namespace="team-b"))
    node.hear_for(4, *listed)
    groups = {group.workload: group.directories for group in node.source.groups()}
    assert {str(who): where for who, where in groups.items()} == {
        f"kubernetes/a.{A[:8]}": (Path(f"/{A}"),),
        f"kubernetes/attacker.{C[:8]}": (Path(f"/{C}"),),
    }


def test_a_static_pod_is_known_by_its_mirror_and_by_no_other(make: Make) -> None:
    static = "cd" * 16
    node = make()
    node.run(static)
    node.run(B)
    mirror = hostile(A, "etcd-n1", static)
    early = Meta("etcd-n1", "team-b", A, None, mirror.metadata.annotations,
                 mirror.metadata.owner_references, "2026-11-24T12:00:00Z")  # fmt: skip
    late = Meta("eve", "team-b", B, None, mirror.metadata.annotations,
                mirror.metadata.owner_references, "2026-11-25T12:00:00Z")  # fmt: skip
    node.api_tells(PodObject(late, Spec("n1")))
    node.api_tells(PodObject(early, Spec("n1")))
    node.api_tells(PodObject(late, Spec("n1")))
    node.hear_for(3, of("etcd-n1", "GPU-0", namespace="team-b"), of("eve", namespace="team-b"))
    table = node.source._table
    assert table.named(static) == ("team-b", "etcd-n1")
    assert table.named(B) == ("team-b", "eve")
    assert node.holders() == {"GPU-0": "etcd-n1"}


def test_a_static_pod_is_one_workload_whoever_is_away(make: Make) -> None:
    """The API server has another uid of it than cgroups, and another again for a new mirror."""
    static = "cd" * 16
    beside = (of("etcd-n1", "GPU-0", namespace="team-b"), of("b", "GPU-1"))
    node = make()
    node.run(static)
    node.run(B)
    node.api_lists(hostile(A, "etcd-n1", static), pod("b", B))
    node.hear_for(3, *beside)
    only = {f"etcd-n1.{static[:8]}", f"b.{B[:8]}"}
    assert node.facts.keys() == only
    begun = {who: fact.started_ns for who, fact in node.facts.items()}
    node = restarted(make, node, running=(static, B))
    node.api_fails()
    node.hear_for(4, *beside)
    assert node.holders() == {"GPU-0": "etcd-n1", "GPU-1": "b"}
    node.api_lists(hostile(C, "etcd-n1", static), pod("b", B))
    node.hear_for(15, *beside)
    assert node.holders() == {"GPU-0": "etcd-n1", "GPU-1": "b"}
    assert not node.closed
    assert {who: fact.started_ns for who, fact in node.facts.items()} == begun


@pytest.mark.parametrize(
    "meta",
    [
        {"annotations": {"kubernetes.io/config.hash": "cd" * 16}},
        {"annotations": {"kubernetes.io/config.hash": "cd" * 16,
                         "kubernetes.io/config.mirror": "cd" * 16}},
        {"annotations": {"kubernetes.io/config.hash": A, "kubernetes.io/config.mirror": A},
         "owner_references": [OwnerReference("Node", "n1", True)]},
        {"annotations": {"kubernetes.io/config.hash": "cd" * 16},
         "owner_references": [OwnerReference("Node", "n1", True)]},
    ],
)  # fmt: skip
def test_only_a_mirror_pod_has_another_uid_in_cgroups(meta: dict[str, object]) -> None:
    found = Reader(DEFAULT_RULES).info(PodObject(Meta("a", "a", B, **meta)))  # type: ignore[arg-type]
    assert found.static_uid == ""


# -- what is infrastructure

SELECTORS = (
    "namespace:kube-system",
    "app=nvidia-dcgm",
    "namespace:slurm,app.kubernetes.io/name=slurmd",
    "namespace:kai-resource-reservation",
    "namespace:monitoring,app.kubernetes.io/name=dcgm-exporter",
)


@pytest.mark.parametrize(
    ("namespace", "labels", "holder"),
    [
        ("team-a", {"app": "nvidia-dcgm"}, "x"),
        ("team-a", {"app_kubernetes_io__name": "slurmd"}, "x"),
        ("team-a", {"app_kubernetes_io__name": "dcgm-exporter"}, "x"),
        ("monitoring", {"app_kubernetes_io__name": "dcgm-exporter"}, "x"),
        ("kube-system", {}, "x"),
        ("slurm", {"app_kubernetes_io__name": "web"}, "x"),
        ("slurm", {"app_kubernetes_io__name": "slurmd"}, None),
        ("kai-resource-reservation", {}, None),
    ],
)
def test_a_pod_that_was_given_a_gpu_is_a_workload_unless_it_holds_it_for_others(
    make: Make, namespace: str, labels: dict[str, str], holder: str | None
) -> None:
    node = make(selectors=SELECTORS)
    node.run(A)
    node.api_lists(pod("x", A, namespace=namespace, **labels))
    node.hear_for(3, of("x", "GPU-0", namespace=namespace))
    assert node.holders().get("GPU-0") == holder
    assert len(node.source.groups()) == (holder is not None)


def test_until_labels_are_told_the_namespace_says_who_holds_for_others(make: Make) -> None:
    node = make(selectors=SELECTORS)
    node.run(A)
    node.api_fails()
    node.hear_for(5, of("slurmd-0", "GPU-0", namespace="slurm"))
    assert node.holders() == {}


# -- replicas


def test_replicas_raised_while_pods_run_are_equal_parts(make: Make) -> None:
    node = make()
    uids = [uid_of(n) for n in range(8)]
    node.offer(*(f"GPU-0::{n}" for n in range(4)))
    node.api_lists(*(pod(f"p{n}", uid) for n, uid in enumerate(uids)))
    for uid in uids:
        node.run(uid)
    listed = [of(f"p{n}", f"GPU-0::{n}") for n in range(8)]
    node.hear_for(3, *listed[:4])
    assert [(c.parts, c.of) for c in node.open_claims] == [(1, 4)] * 4
    node.hear(*listed)
    assert not node.complete, "it is asked for what is offered now"
    node.offer(*(f"GPU-0::{n}" for n in range(8)))
    node.hear(*listed)
    assert [(c.parts, c.of) for c in node.open_claims] == [(1, 8)] * 8
    assert len({c.t0_ns for c in node.open_claims}) <= 2
    node.hear(*listed)
    assert sum(len(claims) for claims in node.closed.values()) == 4, "each ended once"


def test_of_more_replicas_than_are_offered_each_is_a_part_of_those_held(make: Make) -> None:
    node = make()
    node.offer("GPU-0::0", "GPU-0::1")
    uids = [uid_of(n) for n in range(3)]
    node.api_lists(*(pod(f"p{n}", uid) for n, uid in enumerate(uids)))
    listed = [of(f"p{n}", f"GPU-0::{n}") for n in range(3)]
    node.hear(*listed)
    node.offer("GPU-0::0", "GPU-0::1")  # asked again, it says the same
    node.hear_for(2, *listed)
    assert [(c.parts, c.of) for c in node.open_claims] == [(1, 3)] * 3
    node.hear_for(3, *listed[1:])
    assert {c.of for c in node.open_claims} == {2}


def test_an_id_that_is_never_offered_is_asked_for_once(make: Make) -> None:
    node = make()
    node.api_lists(pod("a", A))
    asked: list[None] = []
    node.source._poller.ask_offer = lambda: asked.append(None)  # type: ignore[method-assign]
    node.offer("GPU-0::0")
    for _ in range(20):
        node.hear(of("a", "GPU-0::7"))
        node.offer("GPU-0::0")
    assert len(asked) == 1
    assert node.holders() == {"GPU-0": "a"}


def test_parts_of_hami_and_renamed_resources_are_cards(make: Make) -> None:
    node = make()
    node.offer(*(f"GPU-1-{n}" for n in range(10)))
    node.api_lists(pod("a", A), pod("b", B), pod("c", C))
    node.hear_for(3, of("a", "GPU-1-3"), of("b", "GPU-0", resource="nvidia.com/a100"),
                  of("c", "0000:4d:00.0", resource="rdma/hca"))  # fmt: skip
    found = {c.meter.name: (c.parts, c.of) for c in node.open_claims}
    assert found == {"GPU-0": (1, 1), "GPU-1": (1, 10)}
    assert not node.source._rejections.counts()


# -- the experiment


def test_a_label_that_is_changed_while_a_pod_runs_moves_nothing_of_its_past(make: Make) -> None:
    node = make()
    node.api_lists(pod("a", A, joulebook_io__experiment="bert"))
    node.hear_for(3, of("a", "GPU-0"))
    node.api_tells(pod("a", A, joulebook_io__experiment="vit"))
    node.hear_for(3, of("a", "GPU-0"))
    assert node.facts[f"a.{A[:8]}"].labels.experiment == "bert"
    node = restarted(make, node, running=(A,))
    node.api_lists(pod("a", A, joulebook_io__experiment="vit"))
    node.hear_for(3, of("a", "GPU-0"))
    assert merged(node.before.facts[0], node.facts[f"a.{A[:8]}"]).labels.experiment == "bert"


def test_a_name_that_is_learnt_late_replaces_a_derived_one(make: Make) -> None:
    node = make()
    node.hear()
    node.run(A)
    node.api_fails()
    node.hear_for(5, of("a", "GPU-0"))
    assert node.facts[f"a.{A[:8]}"].labels.experiment == "a"
    node.api_lists(pod("a", A, joulebook_io__experiment="bert"))
    node.hear_for(2, of("a", "GPU-0"))
    assert node.facts[f"a.{A[:8]}"].labels.experiment == "bert"


# -- the begin


def test_a_pod_that_was_there_before_the_daemon_began_when_the_kubelet_took_it(make: Make) -> None:
    node = make(running=(A,))
    node.api_lists(pod("a", A, start="2023-11-14T22:20:00Z"))  # 1,700,000,400
    node.hear_for(3, of("a", "GPU-0"))
    assert node.facts[f"a.{A[:8]}"].started_ns == 400 * NS_PER_S
    assert all(claim.t0_ns > 400 * NS_PER_S for claim in node.open_claims)


def test_a_restart_moves_no_begin(make: Make) -> None:
    node = two_pods(make)
    begun = {who: fact.started_ns for who, fact in node.facts.items()}
    node = restarted(make, node, running=(A, B))
    node.api_lists(pod("a", A), pod("b", B))
    node.hear_for(3, of("a", "GPU-0"), of("b", "GPU-1"))
    assert {who: fact.started_ns for who, fact in node.facts.items()} == begun


def test_nothing_is_said_without_cards(make: Make) -> None:
    node = restarted(make, two_pods(make), running=(A, B))
    node.cards = ()
    node.hear(of("a", "GPU-0"))
    assert (node.open_claims, node.complete) == ((), False)
    node.cards = CARDS
    assert Before() == NOTHING_HELD


# -- a pod is given to another experiment while it runs


def named(uid: str, experiment: str) -> PodObject:
    return pod("a", uid, joulebook_io__experiment=experiment)


def test_a_change_of_name_is_reported_at_once_and_not_every_moment(make: Make) -> None:
    node = make()
    node.run(A)
    node.hear_for(3, of("a", "GPU-0"))
    node.api_lists(named(A, "bert"))

    def experiments(seconds: int) -> list[str]:
        found = []
        for _ in range(seconds):
            node.wait(1)
            found += [fact.labels.experiment for fact in node.book().facts]
        return found

    assert experiments(1) == ["bert"]
    node.api_tells(named(A, "gpt"))
    said_ns = node.clock.t_ns
    assert experiments(1) == ["gpt"]
    assert [fact.named_ns for fact in node.facts.values()] == [said_ns]
    # Back and forth within seconds is one change, to what it is after that.
    for name in ("bert", "gpt", "llama"):
        node.api_tells(named(A, name))
        assert experiments(1) == []
    assert experiments(12) == ["llama"]


def test_a_change_of_name_is_a_boundary(make: Make) -> None:
    node = two_pods(make)
    told: list[int] = []
    listener = node.watch._listener
    listener._boundary = told.append  # type: ignore[attr-defined]
    node.api_tells(named(A, "bert"))
    node.api_tells(named(A, "bert"))
    assert told == [node.clock.t_ns]
