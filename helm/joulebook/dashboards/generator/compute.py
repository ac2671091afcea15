"""Compute trend: the lab's own "AI and Compute" curve, and how fast it doubles.

After https://openai.com/index/ai-and-compute/, method 2: GPU-days x peak FLOP/s x utilization, of
which only the time that a GPU worked is counted.
"""

from __future__ import annotations

from dashboards.generator.board import Board, Row
from dashboards.generator.figures import END, LEGENDS, OF_GPU, OWNERS, WHOSE, kwh, recorded
from dashboards.generator.panel import STACKED, Basis, Panel, Query
from dashboards.generator.promql import by, chosen, ratio, selector, whole
from dashboards.generator.recording import COMPUTE

_LN_2 = 0.693147
_PFLOPS_DAY = "8.64e19"
_FLOP = selector(COMPUTE, chosen("cluster", "account"))
_PEAK = (
    "Time in which held GPUs worked, times the peak of their model in half precision (datasheet, "
    "dense): what they could have done at most. By account; users and experiments are not reported "
    "apart."
)
_MONTHS = "Each point stands for the 30 days before it; from the recording rules."


def _since(days: int) -> str:
    """Fits all that is asked of an instant before which rules go back so many days."""
    rule = f"last_over_time(meter:joulebook_energy_joules:increase1h[3h] offset {days}d)"
    return f"and on () count({rule})"


_FIT = (
    "From the slope of the logarithm of sums of whole weeks, over the 90 days before the end of "
    "the range, whatever range is shown."
)


def _flop(span: str, labels: str = "account") -> str:
    return f"{by(labels, whole(_FLOP, span))} / {_PFLOPS_DAY}"


def _months(title: str, about: str, basis: Basis, unit: str, expression: str) -> Panel:
    most = f"topk({LEGENDS}, {expression.replace('[30d]', f'[30d] @ {END}')})"
    course = f"({expression}) {_since(30)}"
    return Panel(
        title,
        f"{about} {_MONTHS}",
        basis,
        unit,
        (
            Query(f"({course}) and on (account) {most}", "{{account}}", "1d"),
            Query(f"sum(({course}) unless on (account) {most})", "(others)", "1d"),
        ),
        width=8,
        points=60,
        custom=STACKED,
        empty="Not yet 30 days of recording rules",
    )


def _doubling(title: str, about: str, basis: Basis, weekly: str) -> Panel:
    slope = f"deriv(ln({weekly} > 0 {_since(7)})[90d:7d])"
    return Panel(
        title,
        f"{about} {_FIT}",
        basis,
        "s",
        (Query(f"({_LN_2} / ({slope} > 0)) or (({slope} <= 0) * 0)"),),
        "stat",
        8,
        5,
        decimals=1,
        texts={"0": "not growing", "-0": "not growing"},
        empty="Not yet two weeks of recording rules",
    )


BY_MONTH = (
    _months("GPU-hours by month", "Hours for which experiments held GPUs.", Basis.HELD,
        "locale", f"({recorded('gpu_seconds', 'account', '30d')}) / 3600"),
    _months("Energy by month", "Energy of experiments.", Basis.METERED, "kwatth",
        kwh(recorded("energy_joules", "account", "30d"))),
    _months("PFLOP/s-days by month", _PEAK, Basis.MODELLED, "locale", _flop("30d")),
)  # fmt: skip

GROWTH = (
    _doubling("GPU-hours double in", "Time in which GPU-hours double.", Basis.HELD,
        recorded("gpu_seconds", "", "7d")),
    _doubling("Energy doubles in", "Time in which energy doubles.", Basis.METERED,
        recorded("energy_joules", "", "7d")),
    _doubling("Compute doubles in", f"Time in which PFLOP/s-days double. {_PEAK}", Basis.MODELLED,
        _flop("7d", "")),
)  # fmt: skip

CURVE = (
    Panel(
        "PFLOP/s-days of each week",
        f"The lab's own curve, on a logarithmic scale. {_PEAK}",
        Basis.MODELLED,
        "locale",
        (Query(f"{_flop('7d', '')} {_since(7)}", "PFLOP/s-days of the 7 days before", "1d"),),
        width=16,
        height=9,
        decimals=2,
        custom={
            "scaleDistribution": {"type": "log", "log": 10},
            "showPoints": "auto",
            "lineWidth": 2,
        },
        empty="Not yet a week of recording rules",
    ),
    Panel(
        "PFLOP/s-days in the range",
        f"{_PEAK} Ranges of less than 5 minutes are too short.",
        Basis.MODELLED,
        "locale",
        (Query(f"sort_desc({_flop('$__range')})", "{{account}}"),),
        "bargauge",
        8,
        9,
        decimals=2,
        empty="Not yet an hour of recording rules",
    ),
)


_GPU_MONTH = tuple(
    recorded(what, "", "30d", OF_GPU) for what in ("idle_energy_joules", "energy_joules")
)

BETTER = (
    Panel(
        "Allocated but idle, by month",
        "Share of GPU energy consumed while held GPUs did nothing: is it getting better? "
        f"{_MONTHS}",
        Basis.METERED,
        "percentunit",
        (
            Query(
                f"({ratio(*_GPU_MONTH)}) {_since(30)}",
                "allocated but idle",
                "1d",
            ),
        ),
        width=24,
        points=60,
        empty="Not yet 30 days of recording rules",
    ),
)

DASHBOARD = Board(
    "joulebook-compute",
    "Compute trend",
    "GPU-hours, energy and PFLOP/s-days by month, and how fast they double.",
    (*OWNERS, WHOSE),
    (Row("", BY_MONTH), Row("Growth", GROWTH), Row("AI and Compute", CURVE),
        Row("Better use", BETTER)),
    since="now-1y",
    refresh="1h",
)  # fmt: skip
