"""The table of `joulebook top` as lines of text."""

from __future__ import annotations

from joulebook.commands.shared import text
from joulebook.commands.shared.text import NOTHING
from joulebook.commands.top.scrape import Gpu, Labels, NodeScrape, ScrapedWorkload
from joulebook.core.sanitize import one_line
from joulebook.terminal import Column, Screen, cut, wrap
from joulebook.units import UJ_PER_J

_GPU_COLUMNS = (
    Column("GPU", right=True),
    Column("MODEL", name=True, spare=4),
    Column("POWER", right=True),
    Column("LIMIT", right=True, spare=5),
    Column("UTIL", right=True),
    Column("MEMORY", right=True, spare=3),
    Column("TEMP", right=True, spare=2),
    Column("HELD BY", name=True),
)

_WORKLOAD_COLUMNS = (
    Column("JOB", name=True),
    Column("USER", name=True, spare=1),
    Column("ACCOUNT", name=True, spare=3),
    Column("EXPERIMENT", name=True, spare=1),
    Column("POWER", right=True),
    Column("ENERGY", right=True),
    Column("IDLE", right=True, spare=2),
    Column("GPU TIME", right=True, spare=4),
)


def lines(
    board: NodeScrape, screen: Screen, width: int, height: int = 0, note: str = ""
) -> list[str]:
    """Return the table in at most `height` lines (0: unlimited), with `note` below its title."""
    head = [_title(board, screen, width)]
    if note:
        head.append(screen.paint(cut(note, width), "yellow"))
    head.append("")
    rows = [_gpu_row(gpu) for gpu in board.gpus]
    gpus = screen.table(_GPU_COLUMNS, rows, width=width, fold=False)
    rows = [_workload_row(each) for each in board.workloads]
    workloads = screen.table(_WORKLOAD_COLUMNS, rows, width=width, fold=False)
    foot = ["", *_books(board, screen, width)]
    if height:
        # At least a title, a blank line and one row of each table.
        room = height - len(head) - len(foot) - 1
        gpus = _short(gpus, max(room - min(len(workloads), 4), 3), "GPU", width)
        workloads = _short(workloads, max(room - len(gpus), 2), "job", width)
    no_gpu = screen.paint("No GPU was read.", "dim")
    no_job = screen.paint("No job was booked lately.", "dim")
    body = [*(gpus if board.gpus else [no_gpu]), "", *(workloads if board.workloads else [no_job])]
    made = [*head, *body, *foot]
    return made[:height] if height else made


def _title(board: NodeScrape, screen: Screen, width: int) -> str:
    name = one_line(board.node) + (f" ({one_line(board.cluster)})" if board.cluster else "")
    held = sum(bool(gpu.holders) for gpu in board.gpus)
    power = board.power_w
    parts = [
        f"joulebook  {name}",
        NOTHING if power is None else text.power(power),
        f"{held}/{text.several(len(board.gpus), 'GPU')} held",
    ]
    down = [one_line(sensor) for sensor, up in board.sensors.items() if not up]
    line = cut("   ".join(parts), width)
    if down:
        warning = f"SENSOR DOWN: {', '.join(down)}"
        line = cut(line, max(width - len(warning) - 3, 0))
        return f"{screen.paint(line, 'bold')}   {screen.paint(warning, 'red')}"
    return screen.paint(line, "bold")


def _short(made: list[str], room: int, noun: str, width: int) -> list[str]:
    if len(made) <= room:
        return made
    left = len(made) - room + 1
    return [*made[: room - 1], cut(f"... and {text.several(left, f'more {noun}')}", width)]


def _gpu_row(gpu: Gpu) -> list[str]:
    values = gpu.values
    used, total = values.get("memory_used_bytes"), values.get("memory_total_bytes")
    memory = NOTHING
    if used is not None:
        memory = text.size(used) if total is None else text.size_of(used, total)
    return [
        one_line(gpu.index, 6),
        one_line(gpu.model, 40).removeprefix("NVIDIA ") or NOTHING,
        _watts(values.get("power_watts")),
        _watts(values.get("power_limit_watts")),
        _percent(values.get("utilization_ratio")),
        memory,
        _figure(values.get("temperature_celsius"), " C"),
        ", ".join(_holder(labels, share) for labels, share in gpu.holders) or NOTHING,
    ]


def _holder(labels: Labels, share: float) -> str:
    who = " ".join(part for part in (_job(labels), one_line(labels.get("user", ""), 40)) if part)
    return who if share >= 1 else f"{who} {_percent(share)}"


def _workload_row(workload: ScrapedWorkload) -> list[str]:
    labels = workload.labels
    time = text.seconds(workload.gpu_s)
    if workload.coverage is not None:
        time += f", {_percent(workload.coverage)} measured"
    energy_uj, idle_uj = (round(j * UJ_PER_J) for j in (workload.energy_j, workload.idle_j))
    return [
        _job(labels),
        *(
            one_line(labels.get(name, ""), 80) or NOTHING
            for name in ("user", "account", "experiment")
        ),
        "ended" if workload.power_w is None else _watts(workload.power_w),
        text.energy(energy_uj),
        text.percent(idle_uj, energy_uj),
        time,
    ]


def _job(labels: Labels) -> str:
    return one_line(labels.get("workload", ""), 80) or NOTHING


def _books(board: NodeScrape, screen: Screen, width: int) -> list[str]:
    sums = board.sums
    read, jobs, nobody, waiting = (
        text.energy(round(j * UJ_PER_J))
        for j in (sums.read_j, sums.experiments_j, sums.remainders_j, sums.pending_j)
    )
    whole = f"Ledger: {read} read = {jobs} jobs + {nobody} unattributed + {waiting} pending"
    verdict = "balanced" if sums.balanced else f"OFF BY {sums.difference_j:,.2f} J"
    made = wrap(f"{whole}: {verdict}", width)
    if not sums.balanced:
        made = [screen.paint(line, "red") for line in made]
    return made


def _watts(value: float | None) -> str:
    return NOTHING if value is None else text.power(value)


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}".replace("%", " %")


def _figure(value: float | None, unit: str) -> str:
    return NOTHING if value is None else f"{value:.0f}{unit}"
