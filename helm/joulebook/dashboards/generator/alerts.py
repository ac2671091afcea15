"""Alerts: what they mean, and what the reader is reported to do. Each has a section of a
runbook.
"""

from __future__ import annotations

from typing import Any

from dashboards.generator.gpu_alerts import OF_GPUS, Alert
from dashboards.generator.promql import (
    BRIDGED,
    TARGET,
    by,
    increased,
    indented,
    last_of,
    one_of,
    selector,
)
from dashboards.generator.recording import SPENT
from dashboards.generator.serving import dear
from dashboards.generator.yamltext import yaml_of

RUNBOOKS = "https://github.com/joulebook/joulebook/blob/main/docs/runbooks.md"
"""Where the sections are; the anchor is the alert's name in lower case."""


def unbooked(where: str = "", at: str = "") -> str:
    """What a node's meters read and its books do not show, in joules: 0, save for flooring; now, or
    at an instant.
    """
    then = f" @ {at}" if at else ""
    read = f"sum by (cluster, node) (joulebook_meter_energy_joules_total{where}{then})"
    booked = '__name__=~"joulebook_(experiment|remainder)_energy_joules_total"'
    aside = '__name__=~"joulebook_(pending|unexposed)_energy_joules"'
    matchers = where.strip("{}")
    return (
        f"(\n  {read}\n"
        f"  - sum by (cluster, node) ({selector('', booked, matchers)}{then})\n"
        f"  - sum by (cluster, node) ({selector('', aside, matchers)}{then})\n)"
    )


_NODE = "cluster, node"
_WORKLOAD = "cluster, scheduler, workload, user, account, experiment"
_GPU_RESOURCES = 'resource=~"nvidia_com_(gpu(_shared)?|mig_.+)|amd_com_gpu"'


def _rise(counter: str, span: str) -> str:
    """By how much counters rose in a span, or since they were last seen if that is longer ago: an
    outage shows after it. A new series counts where its node was known before.
    """
    last = one_of(TARGET, counter)
    known = f"last_over_time(joulebook_build_info[{BRIDGED}] offset {span})"
    return f"""\
{last}
- (
  ({last_of(counter, BRIDGED, span)} <= {last})
  or ({last} * 0 and on (cluster, node) {known})
  or {last}
)"""


def _silent(metric: str) -> str:
    """Targets that showed a metric, are still to be scraped, and do not answer."""
    return f"last_over_time({metric}[7d]) and on (job, instance) (up == 0)"


def _short(vector: str) -> str:
    """Names of nodes without their domain (an address has none), as the label `short`."""
    whole = f'label_replace({vector}, "short", "$1", "node", "(.+)")'
    return f'label_replace({whole}, "short", "$1", "node", "([^.]*[a-zA-Z][^.]*)[.].+")'


def _elsewhere() -> str:
    """GPUs on nodes without Joulebook, as others see them: in the same cluster, where they name
    one; by names of hosts with or without a domain.
    """
    ours = _short("last_over_time(joulebook_gpu_info[1d])")
    parts = []
    for cluster, same in (('cluster!=""', "cluster, short"), ('cluster=""', "short")):
        kube = selector("kube_node_status_allocatable", _GPU_RESOURCES, cluster)
        dcgm = selector("DCGM_FI_DEV_POWER_USAGE", cluster)
        for seen in (
            f"max by ({_NODE}) ({kube} > 0)",
            f'group by ({_NODE}) (label_replace({dcgm}, "node", "$1", "Hostname", "(.+)"))',
        ):
            parts.append(f"max by ({_NODE}) (\n  {_short(seen)}\n  unless on ({same}) {ours}\n)")
    return "\nor\n".join(parts)


_HELD = by(_WORKLOAD, one_of(TARGET, selector("joulebook_gpu_held_ratio", 'workload!="(unknown)"')))


def _hours(what: str) -> str:
    return by(_WORKLOAD, increased(f"joulebook_workload_{what}_total", "3h"))


_LOST = 'reason=~"unknown_holder|daemon_down|counter_reset"'
_METERS = "joulebook_meter_energy_joules_total"

_OF_BOOKS = (
    Alert(
        "JoulebookBooksDoNotBalance",
        f"abs(\n{unbooked()}\n)\n> 0.005 * {by(_NODE, f'increase({_METERS}[1h])')}",
        "10m",
        "critical",
        "{{ $labels.node }}: {{ $value | humanize }}J are not in the books; keep the ledger, and "
        "compare `joulebook doctor` with the meters",
        "What the meters read differs from what experiments, remainders and pending energy show by "
        "more than 0.5 % of an hour's energy. That cannot happen by design: figures of this node "
        "are not to be published until it is explained.",
    ),
    Alert(
        "JoulebookSensorDown",
        "min by (cluster, node, sensor, kind) (joulebook_sensor_up) == 0",
        "10m",
        "warning",
        "{{ $labels.node }}: sensor {{ $labels.sensor }} gives no readings; run "
        "`joulebook doctor` there, which says what to do",
        "A sensor has failed for 10 minutes. Energy that has a counter is booked once it can be "
        "read again; the rest is a gap.",
    ),
    Alert(
        "JoulebookGaps",
        "max by (cluster, node, component, reason) (\n"
        + indented(_rise(selector("joulebook_gap_seconds_total", 'reason!="released"'), "30m"))
        + "\n) > 1200",
        "5m",
        "warning",
        "{{ $labels.node }}: not measured for {{ $value | humanizeDuration }} "
        "({{ $labels.component }}, {{ $labels.reason }}); look up the reason in the runbook",
        "A meter was not read, or its readings not believed, for more than 20 minutes of the last "
        "half hour, or since the node was last scraped.",
    ),
    Alert(
        "JoulebookDaemonMissing",
        f"group by ({_NODE}) (\n  {_silent('joulebook_build_info')}\n)\n"
        f"unless on ({_NODE}) group by ({_NODE}) (joulebook_build_info)",
        "15m",
        "critical",
        "{{ $labels.node }}: its daemon does not answer; see whether the node is up, then "
        "`systemctl status joulebook` or the pod's log",
        "The node is still a target of Prometheus and has not answered for 15 minutes. What its "
        "GPUs consume is booked to a job only if that job is proven to have held them throughout.",
    ),
    Alert(
        "JoulebookServiceDown",
        "group by (job, instance) (\n"
        + indented(_silent('{__name__=~"joulebook_collect_targets|joulebook_feed_up",node=""}'))
        + "\n)",
        "15m",
        "warning",
        "{{ $labels.instance }} ({{ $labels.job }}): the collector or rates service does not "
        "answer; see `systemctl status` or the pod's log there",
        "A service that the lab runs once, for the collected ledger or the rates of all nodes, has "
        "not answered for 15 minutes. Nodes keep what is not collected, and the last rates.",
    ),
    Alert(
        "JoulebookNotCollected",
        'label_replace(joulebook_collect_database_up == 0, "what", "database", "", "")\n'
        "or\n"
        'label_replace(joulebook_collect_discovery_up == 0, "what", "discovery", "", "")\n'
        "or\n"
        "label_replace(count by (job, instance) ("
        "time() - joulebook_collect_target_last_success_timestamp_seconds > 7200), "
        '"what", "nodes", "", "")',
        "30m",
        "warning",
        "{{ $labels.instance }}: the collected ledger is behind ({{ $labels.what }}); read the "
        "log of the collector",
        "Its database cannot be written, its targets cannot be discovered, or nodes have not been "
        "collected for two hours. Nothing is lost: nodes keep it until it is collected.",
    ),
    Alert(
        "JoulebookDaemonNotInstalled",
        _elsewhere(),
        "30m",
        "warning",
        "{{ $labels.node }} has GPUs and no Joulebook; install it there, or mend the selector of "
        "the DaemonSet",
        "kube-state-metrics or dcgm-exporter know of GPUs on a node from which Joulebook has not "
        "been heard for a day. Its energy is not booked.",
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
        by(_NODE, increased(selector("joulebook_remainder_energy_joules_total", _LOST), "6h"))
        + f"\n/ {by(_NODE, increased(_METERS, '6h'))}\n> 0.05",
        "15m",
        "warning",
        "{{ $labels.node }}: {{ $value | humanizePercentage }} of the energy of 6 hours could not "
        "be given to anybody; see which reason leads on the dashboard, and `joulebook doctor`",
        "More than 5 % went to unknown_holder, daemon_down or counter_reset. GPUs that nobody "
        "held (unallocated) are not meant: those are on the dashboard Waste.",
    ),
    Alert(
        "JoulebookGpuHeldIdle",
        f"({_hours('idle_gpu_seconds')}\n  / {_hours('gpu_seconds')}) > 0.95\n"
        f"and on ({_WORKLOAD})\n"
        f"{_hours('gpu_seconds')} > 8640 * ({_HELD} > 0)",
        "10m",
        "info",
        "{{ $labels.user }} ({{ $labels.account }}) holds idle GPUs with {{ $labels.scheduler }} "
        "{{ $labels.workload }} of {{ $labels.experiment }}; ask whether it may be ended",
        "The workload holds GPUs now, held them for most of the last 3 hours, and they did no work "
        "in at least 95 % of that time.",
    ),
    Alert(
        "JoulebookForeignUse",
        by(f"{_NODE}, scheduler, workload", increased("joulebook_foreign_use_seconds_total", "30m"))
        + " > 300",
        "5m",
        "warning",
        "{{ $labels.node }}: {{ $labels.scheduler }} {{ $labels.workload }} used GPUs that others "
        "hold for {{ $value | humanizeDuration }}; ask its user, and see how it gets past the "
        "scheduler",
        "Processes of a workload used GPUs that it does not hold, for more than 5 minutes of half "
        "an hour. The energy is booked to the holder, whose runs become slower and dearer.",
    ),
    Alert(
        "JoulebookBudgetNearlySpent",
        f"last_over_time({SPENT}[2h]) > 0.9",
        "5m",
        "warning",
        "{{ $labels.account }} {{ $labels.experiment }}: {{ $value | humanizePercentage }} of the "
        "month's budget ({{ $labels.unit }}) is spent; agree on what may still run, or raise it",
        "What the experiment (or the whole account) has used since the month began (UTC) is above "
        "90 % of the amount in [budgets].",
    ),
    Alert(
        "JoulebookServingDear",
        dear(),
        "30m",
        "warning",
        "{{ $labels.model_name }} of {{ $labels.account }} {{ $labels.experiment }}: 1,000 output "
        "tokens cost {{ $value | humanize }} {{ $labels.currency }}; see its batches and its idle "
        "time on the dashboard Serving",
        "Over 6 hours they cost more than serving.cost_limits allows, idle time not counted.",
    ),
    Alert(
        "JoulebookRateFeedStale",
        "count by (cluster, quantity, source) (joulebook_feed_up == 0)",
        "2h",
        "warning",
        "{{ $labels.source }} ({{ $labels.quantity }}): no good answer for 2 hours on "
        "{{ $value }} nodes; run `joulebook rates` on one, which says why",
        "The last good value is used, as an estimate, until rates.*.keep_s is over; after that "
        "nothing is charged.",
    ),
    Alert(
        "JoulebookEnergyUnpriced",
        by("cluster, kind", increased("joulebook_unpriced_energy_joules_total", "15m")) + " > 0",
        "30m",
        "warning",
        "Energy is not charged ({{ $labels.kind }}), since a rate is not known; run "
        "`joulebook rates` on a node, then charge it with `joulebook report --rates`",
        "A rate is configured and has not been known for half an hour: counters of cost or CO2e "
        "stand still while energy goes on.",
    ),
    Alert(
        "JoulebookLabelOverflow",
        "sum by (cluster, reason) (\n"
        + indented(_rise("joulebook_overflow_total", "1h"))
        + "\n) > 0",
        "0m",
        "warning",
        "More {{ $labels.reason }} than may have series of their own; see who makes so many "
        "names, or raise exposition.max_{{ $labels.reason }}",
        "New names are folded into (overflow), with user and account kept. The ledger keeps the "
        "true names: `joulebook report` shows them.",
    ),
)

ALERTS = (*_OF_BOOKS, *OF_GPUS)


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
