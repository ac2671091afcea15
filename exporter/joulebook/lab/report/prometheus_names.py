"""Which run and which node a series of Prometheus is of.

Names come again: two clusters have a job 500 and a node n1 each, and a cluster that counts its jobs
again gives 500 to somebody else. Where a name alone would not tell them apart, the cluster and the
user are added to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from joulebook.core.workloads import WorkloadId
from joulebook.lab.report.prometheus_api import Sample


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
