"""Makes `docs/metrics.md` from the catalogue: `python -m joulebook.metrics.docs PATH`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from joulebook.metrics import dcgm
from joulebook.metrics.catalogue import CATALOGUE, Metric, Quantum
from joulebook.metrics.catalogue_collector import COLLECTOR

_HEAD = """\
<!-- Made from exporter/joulebook/metrics/catalogue.py by `make docs`; do not edit. -->

# Metrics

Served at `/metrics` in the Prometheus text format 0.0.4 or OpenMetrics 1.0, as the scraper asks.
Every `joulebook_` and `process_` metric carries the label `node`, and `cluster` where
`node.cluster` is set. Scrape with `honor_labels: true`. No metric has a label named `job`,
`instance`, `pod` or `namespace`.

- All figures are those of the last *committed* tick: scraping changes nothing, and no counter
  falls when the daemon is restarted or killed.
- A workload's counters appear once its labels are settled, show 0 for
  `exposition.zero_hold_s`, then the truth, and stay for `exposition.linger_s` after its end.
  Its labels never change. An experiment's counters hold still for as long when they (re)appear.
- The sum of `joulebook_meter_energy_joules_total` is the sum of
  `joulebook_experiment_energy_joules_total`, `joulebook_remainder_energy_joules_total` and
  `joulebook_pending_energy_joules`, save for what flooring takes from each series.
- What a device does not say is absent, never 0. A metric that cannot be rendered is left out and
  counted in `joulebook_exposition_errors_total`; the rest of the scrape goes on.
- Stable metrics change only with a major version, beta ones with a minor one.
"""

_DCGM = """
## With `exposition.compat = ["dcgm"]`

The names and labels of dcgm-exporter, without `node` and `cluster`:
LABELS.

`hpc_job` is there where exactly one SLURM job holds the GPU.
`DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION` counts since the ledger began, so that it does not fall when
the driver is loaded again; in OpenMetrics its type is `unknown`, since its name lacks `_total`.
"""

_COLLECT = """
## Of `joulebook collect`

Served at `collect.listen`, without `node` and `cluster`; see [collect](collect.md).
"""


def markdown() -> str:
    """The text of `docs/metrics.md`."""
    owned = ", ".join(f"`{label}`" for label in dcgm.LABELS)
    return (
        f"{_HEAD}\n{_table(CATALOGUE)}"
        f"{_DCGM.replace('LABELS', owned)}\n{_table(dcgm.METRICS, labels=False)}"
        f"{_COLLECT}\n{_table(COLLECTOR)}"
    )


def _table(metrics: Iterable[Metric], *, labels: bool = True) -> str:
    heads = ["Metric", "Type", "Labels", "Value", "Stability, since", "What it says"]
    if not labels:
        heads = ["Metric", "Type", "What it says"]
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


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(), "utf-8")
