"""GPU health: Xids, memory errors, links, and what of the silicon is at work."""

from __future__ import annotations

from dashboards.generator.board import Board, Row
from dashboards.generator.figures import NODES, WHERE, leading
from dashboards.generator.panel import BARS, Basis, Panel, Query, stat
from dashboards.generator.promql import COPIES, by, one_of

_GPU = "{{node}} GPU {{gpu}} {{cluster}}"
_BY = "cluster, node, gpu"
_CARD = f"{_BY}, uuid"
_NEWER = "Hopper and newer only."
_MOST = 12


def _more(name: str, labels: str, legend: str) -> Query:
    """What a counter rose by in each step, where it did: the twelve largest."""
    counter = f"joulebook_gpu_{name}_total{{{WHERE}}}"
    counted = one_of(COPIES, f"increase({counter}[$__rate_interval])")
    # Of one error Prometheus makes 1.3, as it estimates what happened outside of its samples.
    return Query(f"topk({_MOST}, round({by(f'{_BY}{labels}', counted)}) > 0)", legend, "1m")


def _errors(title: str, about: str, empty: str, *queries: Query) -> Panel:
    return Panel(title, f"{about} In each step.", Basis.READ, "locale", queries, custom=BARS,
        decimals=0, empty=empty)  # fmt: skip


def _stat(title: str, about: str, expression: str) -> Panel:
    return stat(title, about, Basis.READ, "locale", Query(expression),
        thresholds=((None, "green"), (1, "red")))  # fmt: skip


def _gauge(title: str, about: str, name: str, unit: str, most: float | None = None) -> Panel:
    """Means over each step of the GPUs where the range's mean is highest, and of the others."""
    series = f"joulebook_gpu_{name}{{{WHERE}}}"
    return Panel(title, f"{about} Mean of each step, of the GPUs with most in the range.",
        Basis.READ, unit,
        leading(
            Query(f"max by ({_CARD}) (avg_over_time({series}[$__interval]))", _GPU, "1m"),
            _CARD,
            f"max by ({_CARD}) (avg_over_time({series}[$__range]))",
            "(mean of the others)",
            "avg",
        ),
        width=8 if most else 12, at_most=most, empty="No GPU reports it")  # fmt: skip


def _risen(name: str, *matchers: str) -> str:
    """What a counter rose by in the range, and what it began with where it began in it."""
    series = f"joulebook_gpu_{name}_total{{{','.join((WHERE, *matchers))}}}"
    began = f"{series} unless last_over_time({series}[6h] offset $__range)"
    return (
        f"(sum({one_of(COPIES, f'increase({series}[$__range])')}) or vector(0))\n"
        f"+ (sum({one_of(COPIES, began)}) or vector(0))"
    )


def _of_gpus(name: str) -> str:
    return one_of(COPIES, f"joulebook_gpu_{name}{{{WHERE}}}")


_SEEN = f"group by (cluster, node, uuid) (last_over_time(joulebook_gpu_info{{{WHERE}}}[$__range]))"

SUMMARY = (
    _stat("Xids", "Errors that the driver reported in the range.", _risen("xid_errors")),
    _stat("Uncorrected errors", "Memory errors that could not be corrected, in the range.",
        _risen("ecc_errors", 'kind="uncorrected"')),
    _stat("Waiting for a reset", "GPUs whose bad memory is remapped or retired with a reset.",
        f"(sum({_of_gpus('remapped_rows_pending')}) or vector(0))\n"
        f"+ (sum({_of_gpus('retired_pages_pending')}) or vector(0))"),
    _stat("To be replaced", "GPUs with bad memory that cannot be remapped.",
        f"sum({_of_gpus('row_remapping_failed')}) or vector(0)"),
    _stat("Gone", "GPUs that were there in the range and are not now, on nodes whose daemon runs.",
        f"count(({_SEEN} unless on (cluster, node, uuid) joulebook_gpu_info)\n"
        "  and on (cluster, node) joulebook_build_info) or vector(0)"),
    _stat("Alerts", "Alerts of GPU health that fire now.",
        'count(ALERTS{alertname=~"JoulebookGpu(Xid|Memory.*|Gone)|JoulebookFewerGpus.*",'
        f'alertstate="firing",{WHERE}}}) or vector(0)'),
)  # fmt: skip

ERRORS = (
    _errors("Xids by number", "Of the driver; docs.nvidia.com lists what each means.",
        "No Xid in the range", _more("xid_errors", ", xid", f"{_GPU} Xid {{{{xid}}}}")),
    _errors("Memory errors", "By kind.", "No memory error in the range",
        _more("ecc_errors", ", kind", f"{_GPU} {{{{kind}}}}")),
    _errors("Link errors", "Of NVLink by kind, and packets that PCIe sent again.",
        "No link error in the range",
        _more("nvlink_errors", ", kind", f"{_GPU} NVLink {{{{kind}}}}"),
        _more("pcie_replay", "", f"{_GPU} PCIe replays")),
    _gauge("Memory temperature", "Of the GPU's memory.", "memory_temperature_celsius", "celsius"),
)  # fmt: skip


def _traffic(link: str, shown: str) -> Panel:
    counter = f"joulebook_gpu_{link}_bytes_total{{{WHERE}}}"
    series = one_of(COPIES, f"rate({counter}[$__rate_interval])")
    labels = f"{_CARD}, direction"
    return Panel(f"{shown} traffic", f"By direction: the GPUs that moved most. {_NEWER}",
        Basis.READ, "Bps",
        leading(
            Query(by(labels, series), f"{_GPU} {{{{direction}}}}", "1m"),
            labels,
            by(labels, f"increase({counter}[$__range])"),
        ),
        empty="No GPU reports it")  # fmt: skip


SILICON = (
    _gauge(
        "Tensor cores", f"Share of time at work. {_NEWER}", "tensor_active_ratio", "percentunit", 1
    ),
    _gauge(
        "Multiprocessors", f"Share that was busy. {_NEWER}", "sm_active_ratio", "percentunit", 1
    ),
    _gauge(
        "Memory bandwidth", f"Share that was used. {_NEWER}", "dram_active_ratio", "percentunit", 1
    ),
    _traffic("pcie", "PCIe"),
    _traffic("nvlink", "NVLink"),
)

DASHBOARD = Board(
    "joulebook-health",
    "GPU health",
    "Xids, errors of memory and links, and what of the silicon is at work.",
    NODES,
    (Row("", SUMMARY), Row("Errors", ERRORS), Row("Silicon", SILICON)),
    since="now-24h",
    refresh="1m",
)
