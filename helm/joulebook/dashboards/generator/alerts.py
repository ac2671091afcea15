"""Alerts: what they mean, and what the reader is reported to do. Each has a section of a
runbook.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dashboards.generator.recording import SPENT
from dashboards.generator.yamltext import yaml_of

RUNBOOKS = "https://github.com/joulebook/joulebook/blob/main/docs/runbooks.md"
"""Where the sections are; the anchor is the alert's name in lower case."""

_UNBOOKED = """\
(
  sum by (cluster, node) (joulebook_meter_energy_joules_total{at})
  - sum by (cluster, node) (
    {{__name__=~"joulebook_(experiment|remainder)_energy_joules_total"}}{at}
  )
  - sum by (cluster, node) (joulebook_pending_energy_joules{at})
)"""


def unbooked(at: str = "") -> str:
    """What a node's meters read and its books do not show, in joules: 0, save for flooring."""
    return _UNBOOKED.format(at=at)


_WORKLOAD = "cluster, scheduler, workload, user, account, experiment"
_GPU_RESOURCES = 'resource=~"nvidia_com_(gpu(_shared)?|mig_.+)|amd_com_gpu"'


class Alert(NamedTuple):
    """One alert. `summary` says what is the matter and what to do, in a line."""

    name: str
    expression: str
    wait: str
    severity: str
    summary: str
    description: str


_OF_BOOKS = (
    Alert(
        "JoulebookBooksDoNotBalance",
        f"abs(\n{unbooked()}\n-\n{unbooked(' offset 1h')}\n)\n"
        "> 0.005 * sum by (cluster, node) (increase(joulebook_meter_energy_joules_total[1h]))",
        "10m",
        "critical",
        "{{ $labels.node }}: {{ $value | humanize }}J of the last hour are not in the books; keep "
        "the ledger, and compare `joulebook doctor` with the meters",
        "What the meters read differs by more than 0.5 % from what experiments, remainders and "
        "pending energy show. That cannot happen by design: figures of this node are not to be "
        "published until it is explained.",
    ),
    Alert(
        "JoulebookSensorDown",
        "joulebook_sensor_up == 0",
        "10m",
        "warning",
        "{{ $labels.node }}: sensor {{ $labels.sensor }} gives no readings; run "
        "`joulebook doctor` there, which says what to do",
        "A sensor has failed for 10 minutes. Energy that has a counter is booked once it can be "
        "read again; the rest is a gap.",
    ),
    Alert(
        "JoulebookGaps",
        "sum by (cluster, node, component, reason) "
        '(increase(joulebook_gap_seconds_total{reason!="released"}[1h])) > 300',
        "5m",
        "warning",
        "{{ $labels.node }}: {{ $value | humanizeDuration }} of the last hour not measured "
        "({{ $labels.component }}, {{ $labels.reason }}); look up the reason in the runbook",
        "Meters were not read, or their readings not believed, for more than 5 minutes of an hour "
        "(all meters of the component together).",
    ),
    Alert(
        "JoulebookDaemonMissing",
        "group by (cluster, node) (last_over_time(joulebook_gpu_info[1d]))\n"
        "unless on (cluster, node) group by (cluster, node) (joulebook_build_info)",
        "10m",
        "critical",
        "{{ $labels.node }}: nothing heard of its daemon; see whether the node is up, then "
        "`systemctl status joulebook` or the pod's log",
        "The node showed GPUs within the last day and is not scraped now. What its GPUs consume is "
        "booked to a job only if that job is proven to have held them throughout.",
    ),
    Alert(
        "JoulebookDaemonNotInstalled",
        "(\n"
        f"  max by (node) (kube_node_status_allocatable{{{_GPU_RESOURCES}}} > 0)\n"
        "  or\n"
        "  group by (node) (label_replace(DCGM_FI_DEV_POWER_USAGE, "
        '"node", "$1", "Hostname", "([^.]+).*"))\n'
        ")\n"
        "unless on (node) group by (node) (last_over_time(joulebook_gpu_info[1d]))",
        "30m",
        "warning",
        "{{ $labels.node }} has GPUs and no Joulebook; install it there, or mend the selector of "
        "the DaemonSet",
        "kube-state-metrics or dcgm-exporter know of GPUs on a node from which Joulebook has not "
        "been heard for a day. Its energy is in nobody's books.",
    ),
    Alert(
        "JoulebookWrongLedger",
        "joulebook_collect_target_up == 0\n"
        "and on (target) sum by (target) (\n"
        '  increase(joulebook_collect_errors_total{reason=~"wrong_ledger|twice"}[1h])\n'
        ") > 0",
        "10m",
        "warning",
        "{{ $labels.target }} shows the ledger or the name of another node; /readyz of the "
        "collector says which, and what to do",
        "The collector refuses it, so nothing of it reaches the lab's ledger: a copied disk, two "
        "nodes of one name, or a node that was renamed while its old name is still a target.",
    ),
    Alert(
        "JoulebookUnattributedEnergy",
        "sum by (cluster, node) (increase(joulebook_remainder_energy_joules_total"
        '{reason=~"unknown_holder|daemon_down|counter_reset"}[6h]))\n'
        "/ sum by (cluster, node) (increase(joulebook_meter_energy_joules_total[6h]))\n"
        "> 0.05",
        "15m",
        "warning",
        "{{ $labels.node }}: {{ $value | humanizePercentage }} of the energy of 6 hours could not "
        "be given to anybody; see which reason leads on the dashboard, and `joulebook doctor`",
        "More than 5 % went to unknown_holder, daemon_down or counter_reset. GPUs that nobody "
        "held (unallocated) are not meant: those are on the dashboard Waste.",
    ),
    Alert(
        "JoulebookGpuHeldIdle",
        "(\n"
        f"  sum by ({_WORKLOAD}) "
        '(increase(joulebook_workload_idle_energy_joules_total{component="gpu"}[3h]))\n'
        f"  / sum by ({_WORKLOAD}) "
        '(increase(joulebook_workload_energy_joules_total{component="gpu"}[3h]))\n'
        "  > 0.95\n"
        ")\n"
        f"and on ({_WORKLOAD})\n"
        f"sum by ({_WORKLOAD}) (increase(joulebook_workload_gpu_seconds_total[3h])) > 9000",
        "10m",
        "info",
        "{{ $labels.user }} ({{ $labels.account }}) holds idle GPUs with {{ $labels.scheduler }} "
        "{{ $labels.workload }} of {{ $labels.experiment }}; ask whether it may be ended",
        "In the last 3 hours at least 95 % of the GPU energy of this workload was consumed "
        "while its "
        "devices were idle, and it held them for at least 2.5 GPU-hours.",
    ),
    Alert(
        "JoulebookBudgetNearlySpent",
        f"{SPENT} > 0.9",
        "5m",
        "warning",
        "{{ $labels.account }} {{ $labels.experiment }}: {{ $value | humanizePercentage }} of its "
        "budget ({{ $labels.unit }}) is spent; agree on what may still run, or raise it",
        "What the counters of the experiment (or of the whole account) have come to since they "
        "began is above 90 % of the amount in [budgets].",
    ),
    Alert(
        "JoulebookRateFeedStale",
        "joulebook_feed_up == 0",
        "2h",
        "warning",
        "{{ $labels.node }}: no good answer from {{ $labels.source }} ({{ $labels.quantity }}) "
        "for 2 hours; run `joulebook rates` there, which says why",
        "The last good value is used, as an estimate, until rates.*.keep_s is over; after that "
        "nothing is charged.",
    ),
    Alert(
        "JoulebookEnergyUnpriced",
        "sum by (cluster, node, kind) (increase(joulebook_unpriced_energy_joules_total[1h])) > 0",
        "15m",
        "warning",
        "{{ $labels.node }}: energy is not charged ({{ $labels.kind }}), since a rate is not "
        "known; run `joulebook rates` there, then charge it with `joulebook report --rates`",
        "A rate is configured and not known now: counters of cost or CO2e stand still while "
        "energy goes on.",
    ),
    Alert(
        "JoulebookLabelOverflow",
        "sum by (cluster, node, reason) (increase(joulebook_overflow_total[1h])) > 0\n"
        "or\n"
        "sum by (cluster, node, reason) (joulebook_overflow_total unless "
        "joulebook_overflow_total offset 1h) > 0",
        "0m",
        "warning",
        "{{ $labels.node }}: more {{ $labels.reason }} than may have series of their own; see "
        "who makes so many names, or raise exposition.max_{{ $labels.reason }}",
        "New names are folded into (overflow), with user and account kept. The ledger keeps the "
        "true names: `joulebook report` shows them.",
    ),
)

_CARD = "cluster, node, gpu, uuid"
_OF_CARD = "{{ $labels.node }} GPU {{ $labels.gpu }}"
_XID = 'joulebook_gpu_xid_errors_total{xid!~"13|31|43|45"}'
_MOST_PROMISED = 16

_PROMISED = "\nor ".join(
    f'group by (node) (kube_node_labels{{label_nvidia_com_gpu_count="{count}"}}) * {count}'
    for count in range(1, _MOST_PROMISED + 1)
)
"""What the label nvidia.com/gpu.count says; its value is text, of which PromQL makes no number."""

ALERTS = (
    *_OF_BOOKS,
    Alert(
        "JoulebookGpuXid",
        f"sum by ({_CARD}, xid) (increase({_XID}[15m])) > 0\n"
        f"or sum by ({_CARD}, xid) ({_XID} unless {_XID} offset 15m) > 0",
        "0m",
        "warning",
        f"{_OF_CARD}: Xid {{{{ $labels.xid }}}}; look it up in NVIDIA's catalogue of Xids",
        "The driver reported an error of the GPU. Xids that a program's own faults cause (13, 31, "
        "43, 45) are left out.",
    ),
    Alert(
        "JoulebookGpuMemoryErrors",
        f'sum by ({_CARD}) (increase(joulebook_gpu_ecc_errors_total{{kind="uncorrected"}}[1h])) '
        "> 0",
        "0m",
        "critical",
        f"{_OF_CARD}: memory errors that could not be corrected; drain the node, reset the GPU",
        "Results of what ran on this GPU may be wrong.",
    ),
    Alert(
        "JoulebookGpuMemoryWearsOut",
        "joulebook_gpu_row_remapping_failed == 1\n"
        "or joulebook_gpu_remapped_rows_pending == 1\n"
        "or joulebook_gpu_retired_pages_pending == 1",
        "15m",
        "warning",
        f"{_OF_CARD}: bad memory waits for a reset, or cannot be remapped; reset the GPU, or "
        "replace it",
        "Rows or pages with errors are taken out of use with the next reset. Where remapping "
        "failed, the GPU is to be replaced.",
    ),
    Alert(
        "JoulebookGpuGone",
        f"(group by ({_CARD}) (last_over_time(joulebook_gpu_info[6h]))\n"
        f"unless on (cluster, node, uuid) joulebook_gpu_info)\n"
        "and on (cluster, node) joulebook_build_info\n"
        "or label_replace(\n"
        "  sum by (cluster, node, meter) (increase(joulebook_gap_seconds_total{\n"
        '    component="gpu",reason=~"gpu_is_lost|missing"\n'
        '  }[15m])) > 300, "uuid", "$1", "meter", "(.*)"\n'
        ")",
        "5m",
        "critical",
        "{{ $labels.node }}: GPU {{ $labels.uuid }} does not answer any more; see dmesg for its "
        "Xid (79: it fell off the bus)",
        "A GPU that was read is not found, or lost, while the daemon of its node is well.",
    ),
    Alert(
        "JoulebookFewerGpusThanPromised",
        f'(\n{_PROMISED}\n)\n> on (node) count by (node) (joulebook_gpu_info{{vendor="nvidia"}})',
        "15m",
        "warning",
        "{{ $labels.node }}: its label nvidia.com/gpu.count promises {{ $value }} GPUs, and fewer "
        "are there; cordon it, and look for the one that is missing",
        "The scheduler counts on GPUs that the node does not have. It needs "
        "--metric-labels-allowlist=nodes=[nvidia.com/gpu.count] of kube-state-metrics.",
    ),
)


def groups() -> list[dict[str, Any]]:
    """The one rule group."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expression,
            "for": alert.wait,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "runbook_url": f"{RUNBOOKS}#{alert.name.lower()}",
            },
        }
        for alert in ALERTS
    ]
    return [{"name": "joulebook-alerts", "rules": rules}]


_ABOUT = """\
Alerts of Joulebook, written by `make docs` from dashboards/generator/alerts.py; what to do about
each is in docs/runbooks.md. Budgets need recording.rules.yaml beside them."""


def text() -> str:
    """alerts.rules.yaml."""
    return yaml_of({"groups": groups()}, _ABOUT)
