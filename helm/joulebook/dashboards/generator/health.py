"""GPU health: Xids, memory errors, links, and what of the silicon is at work."""

from __future__ import annotations

from dashboards.generator.board import Board, Row
from dashboards.generator.figures import LEGENDS, NODES, WHERE, foremost
from dashboards.generator.panel import Basis, Panel, Query, stat
from dashboards.generator.promql import by

_GPU = "{{node}} GPU {{gpu}} {{cluster}}"
_BY = "cluster, node, gpu"
_NEWER = "Hopper and newer only."


def _more(name: str, labels: str, legend: str, *matchers: str, most: int = LEGENDS) -> Query:
    """What a counter rose by in each step, of the GPUs where it rose most in the range."""
    selector = ",".join((WHERE, *matchers))
    counted = by(
        f"{_BY}{labels}", f"increase(joulebook_gpu_{name}_total{{{selector}}}[$__rate_interval])"
    )
    rank = counted.replace("$__rate_interval", "$__range")
    return Query(foremost(counted, f"{_BY}{labels}", rank, most), legend, "1m")


_NOT_SHOWN = "No GPU that was scraped shows it"


def _errors(title: str, about: str, *queries: Query) -> Panel:
    return Panel(title, f"{about} In each step.", Basis.READ, "locale", queries, empty=_NOT_SHOWN)


def _stat(title: str, about: str, expression: str) -> Panel:
    return stat(title, about, Basis.READ, "locale", Query(expression), 6)


def _gauge(title: str, about: str, name: str, unit: str, most: float | None = None) -> Panel:
    mean = f"avg by ({_BY}) (avg_over_time(joulebook_gpu_{name}{{{WHERE}}}[$__interval]))"
    expression = foremost(mean, _BY, mean.replace("$__interval", "$__range"))
    return Panel(title, f"{about} Mean of each step, of the highest.", Basis.READ, unit,
        (Query(expression, _GPU, "1m"),), at_most=most, empty=_NOT_SHOWN)  # fmt: skip


def _risen(name: str, *matchers: str) -> str:
    """What a counter rose by in the range, and what it began with where it began in it."""
    series = f"joulebook_gpu_{name}_total{{{','.join((WHERE, *matchers))}}}"
    return (
        f"(sum(increase({series}[$__range])) or vector(0))\n"
        f"+ (sum({series} unless last_over_time({series}[6h] offset $__range)) or vector(0))"
    )


SUMMARY = (
    _stat("Xids", "Errors that the driver reported in the range.", _risen("xid_errors")),
    _stat("Uncorrected memory errors", "In the range.",
        _risen("ecc_errors", 'kind="uncorrected"')),
    _stat("Waiting for a reset", "GPUs whose bad memory is remapped or retired with a reset.",
        f"(sum(joulebook_gpu_remapped_rows_pending{{{WHERE}}}) or vector(0))\n"
        f"+ (sum(joulebook_gpu_retired_pages_pending{{{WHERE}}}) or vector(0))"),
    _stat("To be replaced", "GPUs with bad memory that cannot be remapped.",
        f"sum(joulebook_gpu_row_remapping_failed{{{WHERE}}}) or vector(0)"),
)  # fmt: skip

ERRORS = (
    _errors("Xids by number", "Of the driver; docs.nvidia.com lists what each means.",
        _more("xid_errors", ", xid", f"{_GPU} Xid {{{{xid}}}}")),
    _errors("Memory errors", "By kind.", _more("ecc_errors", ", kind", f"{_GPU} {{{{kind}}}}")),
    _errors("Link errors", "Of NVLink by kind, and packets that PCIe sent again.",
        _more("nvlink_errors", ", kind", f"{_GPU} NVLink {{{{kind}}}}", most=6),
        _more("pcie_replays", "", f"{_GPU} PCIe replays", most=5)),
    _gauge("Memory temperature", "Of the GPU's memory.", "memory_temperature_celsius", "celsius"),
)  # fmt: skip


def _traffic(link: str, shown: str) -> Query:
    """Bytes a second of the GPUs that had most."""
    counter = f"joulebook_gpu_{link}_bytes_total{{{WHERE}}}"
    labels = f"{_BY}, direction"
    return Query(
        foremost(
            by(labels, f"rate({counter}[$__rate_interval])"),
            labels,
            by(labels, f"rate({counter}[$__range])"),
            LEGENDS // 2,
        ),
        f"{_GPU} {shown} {{{{direction}}}}",
        "1m",
    )


SILICON = (
    _gauge("Tensor cores", f"Share of time at work. {_NEWER}", "tensor_active_ratio",
        "percentunit", 1),
    _gauge("Multiprocessors", f"Share that was busy. {_NEWER}", "sm_active_ratio",
        "percentunit", 1),
    _gauge("Memory bandwidth", f"Share that was used. {_NEWER}", "dram_active_ratio",
        "percentunit", 1),
    Panel(
        "Traffic",
        f"Over PCIe and NVLink. {_NEWER}",
        Basis.READ,
        "Bps",
        (_traffic("pcie", "PCIe"), _traffic("nvlink", "NVLink")),
        empty=_NOT_SHOWN,
    ),
)  # fmt: skip

DASHBOARD = Board(
    "joulebook-health",
    "GPU health",
    "Xids, errors of memory and links, and what of the silicon is at work.",
    NODES,
    (Row("", SUMMARY), Row("Errors", ERRORS), Row("Silicon", SILICON)),
    since="now-24h",
    refresh="1m",
)
