"""Which run and which node a series of Prometheus is of, and since when it has each node.

Names are reused: two clusters each have a job 500 and a node n1, and a cluster that restarts its
numbering gives 500 to another user. If a name alone is ambiguous, cluster and user are added to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from joulebook.core.workloads import WorkloadId
from joulebook.lab.report.prometheus_api import BEFORE_S, Late, PrometheusApi, Sample
from joulebook.lab.report.wording import listed


class Names:
    """The names of runs and nodes in samples of one report."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        """`samples` have all runs in them."""
        self._clusters: dict[tuple[str, str], set[str]] = {}
        self._users: dict[tuple[str, str, str], set[str]] = {}
        self._of_node: dict[str, set[str]] = {}
        for labels, _ in samples:
            cluster, *name = (labels.get(key, "") for key in ("cluster", "scheduler", "workload"))
            self._clusters.setdefault((name[0], name[1]), set()).add(cluster)
            users = self._users.setdefault((cluster, name[0], name[1]), set())
            users |= {labels.get("user", "")} - {""}
            self._of_node.setdefault(labels.get("node", ""), set()).add(cluster)

    def run(self, labels: Mapping[str, str]) -> WorkloadId:
        """Return the run that a series is of; a node that does not know the user has a part."""
        cluster, user = labels.get("cluster", ""), labels.get("user", "")
        scheduler, workload = labels.get("scheduler", ""), labels.get("workload", "")
        name = workload
        if len(self._clusters.get((scheduler, workload), ())) > 1:
            name = f"{cluster}:{name}"
        if len(self._users.get((cluster, scheduler, workload), ())) > 1:
            name = f"{name}@{user}"
        return WorkloadId(scheduler, name)

    def node(self, labels: Mapping[str, str]) -> str:
        """Return the node that a series is of."""
        node = labels.get("node", "")
        if len(self._of_node.get(node, ())) > 1:
            return f"{labels.get('cluster', '')}/{node}"
        return node


NodesName = tuple[str, str, str]
"""What each node calls a run: cluster, scheduler and shown name."""


def shown_name(labels: Mapping[str, str]) -> NodesName:
    """Return what a node calls the run that a series is of."""
    return labels.get("cluster", ""), labels.get("scheduler", ""), labels.get("workload", "")


_NODE = "cluster, node"
_STEPS = 1_000
"""The steps in which a node's first sample is searched."""


class Nodes:
    """The nodes of one report, with what the storage cannot know of them."""

    def __init__(self, api: PrometheusApi, since_s: int, at_s: int) -> None:
        """Query which nodes were there at the start. Raises `SourceError`."""
        self._api, self._since_s, self._at_s = api, since_s, at_s
        self._span_s = at_s - since_s
        self._first_s = self._first_seen()
        self.late = self._late_nodes()

    def _first_seen(self) -> dict[tuple[str, str], int]:
        """Nodes (with cluster) that the storage has from some time in the range on, and which."""
        alive = "joulebook_build_info"
        known = self._api.instant(
            f"count by ({_NODE}) (last_over_time({alive}[{BEFORE_S}s]))", self._since_s
        )
        step_s = max(self._span_s // _STEPS, 60)
        first = self._api.instant(
            f"min by ({_NODE}) (min_over_time(timestamp({alive})[{self._span_s}s:{step_s}s]))",
            self._at_s,
        )
        there = {_node(sample) for sample in known}
        return {_node(s): math.ceil(s.value) for s in first if _node(s) not in there}

    def _late_nodes(self) -> Late | None:
        if not self._first_s:
            return None
        last_s = min(max(self._first_s.values()), self._at_s)
        return Late(
            frozenset(node for _, node in self._first_s),
            self._at_s - last_s,
            # Not every storage counts the sample at the very edge of a window.
            last_s - self._since_s + BEFORE_S,
        )

    def warnings(self) -> Iterator[str]:
        """Yield what the storage cannot know of these nodes, in words."""
        late = sorted({node for _, node in self._first_s})
        if late:
            first = datetime.fromtimestamp(min(self._first_s.values()), UTC)
            yield (
                f"the first samples of {listed(late)} are from {first:%Y-%m-%d %H:%M} UTC or "
                "later: earlier consumption is not included"
            )
        alike = "count by (cluster, node, gpu, uuid) (joulebook_gpu_info)"
        twins = self._api.instant(f"count by ({_NODE}, gpu) ({alike}) > 1", self._at_s)
        if names := sorted({_node(sample)[1] for sample in twins}):
            yield (
                f"more than one node is called {listed(names)}: of series with the same labels, "
                "only one counts (set node.cluster, or different names)"
            )


def _node(sample: Sample) -> tuple[str, str]:
    return sample.labels.get("cluster", ""), sample.labels.get("node", "")
