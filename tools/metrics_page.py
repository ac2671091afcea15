"""Generate `docs/metrics.md` from the catalogue, for `tools/generate.py`."""

from __future__ import annotations

from collections.abc import Iterable

from joulebook.lab.advice.metrics import ADVICE
from joulebook.lab.collect.metrics import COLLECTOR
from joulebook.lab.serving.metrics import SERVING
from joulebook.metrics import dcgm
from joulebook.metrics.catalogue import CATALOGUE
from joulebook.metrics.metric import Metric, Quantum

_HEAD = """\
<!-- Generated from exporter/joulebook/metrics/catalogue.py by `make docs`; do not edit. -->

# Metrics

Served at `/metrics` in the Prometheus text format 0.0.4 or in OpenMetrics 1.0, as the scraper
requests. Every `joulebook_` and `process_` metric has the label `node`, and `cluster` if
`node.cluster` is set. Scrape with `honor_labels: true`. No metric has a label named `job`,
`instance`, `pod` or `namespace`.

- All values are as of the last committed tick. Scraping changes nothing, and no counter
  decreases when the daemon is restarted or killed.
- A workload's counters appear once its labels are settled. They show 0 for
  `exposition.zero_hold_s`, then the true value, and stay for `exposition.linger_s` after the
  workload ends. Its labels never change. When an experiment's counters (re)appear, they stay
  constant for `exposition.zero_hold_s` first.
- The sum of `joulebook_meter_energy_joules_total` equals the sum of
  `joulebook_experiment_energy_joules_total`, `joulebook_remainder_energy_joules_total`,
  `joulebook_unexposed_energy_joules` and `joulebook_pending_energy_joules`, except for the
  flooring of each series.
- A value that a device does not report is absent, never 0. A metric that cannot be rendered is
  left out and counted in `joulebook_exposition_errors_total`; the rest of the scrape goes on.
- Stable metrics change only with a major version, beta ones with a minor version.
"""

_DCGM = """
## With `exposition.compat = ["dcgm"]`

The names and labels of dcgm-exporter, without `node` and `cluster`:
LABELS.

`hpc_job` is set if exactly one SLURM job holds the GPU.
`DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION` counts from the start of the ledger, so that it does not
reset when the driver is reloaded. In OpenMetrics its type is `unknown`, since its name does not
end in `_total`.

These are all of the default counters of dcgm-exporter 4.8 but:

ABSENT
"""

_COLLECT = """
## Of `joulebook collect`

Served at `collect.listen`, without `node` and `cluster`; see [collect](collect.md).
"""

_LAB = """
## Of `joulebook lab`

The metrics of `joulebook collect`, those of served models where `serving` is set, and what last
month's advice would have saved, without `node`; see [serving](serving.md) and [advice](advice.md).
"""


def markdown() -> str:
    """Return the text of `docs/metrics.md`."""
    owned = ", ".join(f"`{label}`" for label in dcgm.LABELS)
    absent = "\n".join(f"- `{name}`: {why}" for name, why in dcgm.ABSENT.items())
    like_dcgm = _DCGM.replace("LABELS", owned).replace("ABSENT", absent)
    return (
        f"{_HEAD}\n{_table(CATALOGUE)}"
        f"{like_dcgm}\n{_table(dcgm.METRICS, labels=False)}"
        f"{_COLLECT}\n{_table(COLLECTOR)}"
        f"{_LAB}\n{_table((*SERVING, *ADVICE))}"
    )


def _table(metrics: Iterable[Metric], *, labels: bool = True) -> str:
    heads = ["Metric", "Type", "Labels", "Value", "Stability, since", "Description"]
    if not labels:
        heads = ["Metric", "Type", "Description"]
    rows = [heads, ["---"] * len(heads)]
    for metric in metrics:
        row = [f"`{metric.name}`", str(metric.kind)]
        if labels:
            value = metric.unit or "number"
            if metric.quantum is not Quantum.NONE:
                value += f", floored to {metric.quantum}"
            row.append(", ".join(f"`{label}`" for label in metric.labels))
            row += [value, f"{metric.stability}, {metric.since}"]
        rows.append([*row, metric.help])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
