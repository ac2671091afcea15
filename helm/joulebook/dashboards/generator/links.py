"""Where a click leads: from the lab to an experiment, a run, a node.

What the clicked row or bar knows is handed over, its cluster too: ids of jobs and names of nodes
and experiments may be there in several. A label that it lacks is handed over as nothing, which
fits series without it. All values are percent-encoded: by itself Grafana leaves `+&#=` in a name
as they are (https://grafana.com/docs/grafana/latest/dashboards/variables/variable-syntax/).
"""

from __future__ import annotations

from collections.abc import Mapping

_OF_ROW = "__data.fields"
_OF_BAR = "__field.labels"


def _link(title: str, uid: str, source: str, labels: str, kept: str = "") -> Mapping[str, str]:
    """A link that hands over `labels` of what was clicked, and the choices `kept` as they are."""
    given = [
        "${datasource:queryparam}",
        "${__url_time_range}",
        *(f"${{{name}:queryparam}}" for name in kept.split()),
        *(f"var-{name}=${{{source}.{name}:percentencode}}" for name in labels.split()),
    ]
    return {"title": title, "url": f"/d/{uid}?{'&'.join(given)}"}


EXPERIMENT = _link(
    "This experiment", "joulebook-experiment", _OF_ROW, "cluster account user experiment"
)
WORKLOAD = _link("This run", "joulebook-workload", _OF_ROW, "cluster workload")
WORKLOAD_OF_BAR = _link("This run", "joulebook-workload", _OF_BAR, "cluster workload")
NODE = _link("This node", "joulebook-node", _OF_ROW, "cluster node")
ACCOUNT = _link(
    "Experiments of this account", "joulebook-lab", _OF_BAR, "account", "cluster user experiment"
)
USER = _link(
    "Experiments of this user", "joulebook-lab", _OF_BAR, "user", "cluster account experiment"
)
