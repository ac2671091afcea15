"""Which nodes a Prometheus has from which time on, and which it cannot tell apart."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime

from joulebook.lab.report.prometheus_api import BEFORE_S, Late, PrometheusApi, Sample
from joulebook.lab.report.wording import listed

_NODE = "cluster, node"
_STEPS = 1_000
"""Steps at which the range is looked at for the first sample of a node."""


class Nodes:
    """The nodes of one report, with what the storage cannot know of them."""

    def __init__(self, api: PrometheusApi, since_s: int, at_s: int) -> None:
        """Ask which nodes were there at the start. Raises `SourceError`."""
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
        """What the storage cannot know of these nodes, in words."""
        late = sorted({node for _, node in self._first_s})
        if late:
            first = datetime.fromtimestamp(min(self._first_s.values()), UTC)
            yield (
                f"the first samples of {listed(late)} are of {first:%Y-%m-%d %H:%M} UTC or later: "
                "what was consumed before is not in this"
            )
        alike = "count by (cluster, node, gpu, uuid) (joulebook_gpu_info)"
        twins = self._api.instant(f"count by ({_NODE}, gpu) ({alike}) > 1", self._at_s)
        if names := sorted({_node(sample)[1] for sample in twins}):
            yield (
                f"more than one node is called {listed(names)}: where their series are named "
                "alike, that of one of them counts (set node.cluster, or other names)"
            )


def _node(sample: Sample) -> tuple[str, str]:
    return sample.labels.get("cluster", ""), sample.labels.get("node", "")
