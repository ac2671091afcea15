"""Puts the simulated lab into Prometheus and VictoriaMetrics, and the shipped rules' series too.

Prometheus takes OpenMetrics by `promtool tsdb create-blocks-from openmetrics`, and the series of
rules by `create-blocks-from rules`: they are worked out by Prometheus from the shipped rules, and
only copied to VictoriaMetrics.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import yaml
from dashboards.generator.recording import SPENT
from tests.lab.grafana import ROOT
from tests.lab.scrape import Lab, Series
from tests.lab.servers import Server, prometheus, victoria
from tests.lab.serving import served
from tests.lab.truth import truth
from tests.lab.world import DAY_S, END_S, HOUR_S, NODES, START_S

from joulebook.metrics.exposition import number

BLOCK_S = 162 * HOUR_S
"""Blocks of Prometheus are this long here: 2 h times a power of 3."""

RULES = ROOT / "dashboards/rules/recording.rules.yaml"


@contextmanager
def made(build_dir: Path) -> Iterator[Path]:
    """A home with the lab in it, for this process alone; made once for what the lab is made of."""
    with (build_dir / "lab.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        home = build_dir / f"lab-{_digest()}"
        if not home.exists():
            for old in build_dir.glob("lab-*"):
                shutil.rmtree(old)
            new = build_dir / "lab-new"
            with victoria(new) as second:
                backfill(new, second)
            new.rename(home)
        yield home


def _digest() -> str:
    """Of all that decides what is in the lab."""
    package = ROOT / "exporter/joulebook"
    lab = ("world", "truth", "curve", "scrape", "serving", "backfill")
    files = [*(Path(__file__).with_name(f"{name}.py") for name in lab), RULES,
        *(package / "metrics").glob("*.py")]  # fmt: skip
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def backfill(home: Path, into: Server) -> None:
    """Make `home/data` for Prometheus, and send the same to a VictoriaMetrics."""
    data = home / "data"
    data.mkdir(parents=True)
    first = START_S // BLOCK_S * BLOCK_S
    windows = [(t, min(t + BLOCK_S, END_S + 1)) for t in range(first, END_S + 1, BLOCK_S)]
    truth()  # worked out once, shared with the children by fork
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 4), get_context("fork")) as pool:
        for made in pool.map(_window, windows, [home] * len(windows), [into.url] * len(windows)):
            for block in made.iterdir():
                if block.is_dir():
                    shutil.move(block, data / block.name)
            shutil.rmtree(made)
    _rules(home, into)


def _window(window: tuple[int, int], home: Path, url: str) -> Path:
    """One block's worth of samples: a file of OpenMetrics, made into blocks; and lines of JSON."""
    place = home / f"blocks-{window[0]}"
    text = home / f"{window[0]}.om"
    with text.open("w") as file:
        for node in NODES:
            lines: list[bytes] = []
            for series in Lab(truth(), node).series(*window):
                if series.times:
                    file.write(openmetrics(series))
                    lines.append(json_line(series))
            send(url, b"\n".join(lines))
        lines = []
        for series in served(*window):
            file.write(openmetrics(series))
            lines.append(json_line(series))
        send(url, b"\n".join(lines))
        file.write("# EOF\n")
    promtool(
        "tsdb", "create-blocks-from", "openmetrics", "-q", "--max-block-duration=162h", text, place
    )
    text.unlink()
    return place


def openmetrics(series: Series) -> str:
    """The samples of a series, one a line."""
    prefix = series.prefix
    pairs = zip(series.times, series.values, strict=True)
    return "".join([f"{prefix}{number(value)} {t_s}\n" for t_s, value in pairs])


def json_line(series: Series) -> bytes:
    """The same as VictoriaMetrics imports it."""
    return msgspec.json.encode(
        {
            "metric": series.names,
            "values": series.values,
            "timestamps": [t_s * 1000 for t_s in series.times],
        }
    )


def send(url: str, body: bytes) -> None:
    """Import lines of JSON into VictoriaMetrics."""
    subprocess.run(
        ["curl", "-sSf", "-X", "POST", "--data-binary", "@-", f"{url}/api/v1/import"],
        input=body,
        check=True,
        timeout=300,
    )


def promtool(*arguments: object) -> None:
    """Run it; what it says is in the error if it fails."""
    done = subprocess.run(
        ["promtool", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr


def records() -> Iterator[dict[str, Any]]:
    """The shipped recording rules."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from group["rules"]


def _stages() -> list[list[dict[str, Any]]]:
    """The groups of the shipped rules in the order in which they read one another."""
    names = {rule["record"] for rule in records()}
    done: set[str] = set()
    stages = []
    while done < names:
        stage = [
            {**group, "rules": [
                rule for rule in group["rules"]
                if rule["record"] not in done
                and {name for name in names if name in rule["expr"]} <= done | {rule["record"]}
            ]}
            for group in yaml.safe_load(RULES.read_text())["groups"]
        ]  # fmt: skip
        done |= {rule["record"] for group in stage for rule in group["rules"]}
        stages.append([group for group in stage if group["rules"]])
    return stages


def _rules(home: Path, into: Server) -> None:
    """The series of the shipped rules, evaluated by Prometheus: those of an hour over all of the
    history, those of 5 minutes and the (slow) budgets over its last two days.
    """
    for stage, groups in enumerate(_stages()):
        made = home / f"rules-{stage}"
        with prometheus(home) as server:
            for group in groups:
                is_long = group["interval"] == "1h" and group["rules"][0]["record"] != SPENT
                since_s = START_S if is_long else END_S - 2 * DAY_S
                file = home / "some.rules.yaml"
                file.write_text(yaml.safe_dump({"groups": [group]}))
                promtool(
                    "tsdb", "create-blocks-from", "rules", "--max-block-duration=1440h",
                    f"--start={(since_s // HOUR_S + 1) * HOUR_S}", f"--end={END_S}",
                    f"--url={server.url}", f"--output-dir={made}", file,
                )  # fmt: skip
        for block in made.iterdir():
            if block.is_dir():
                shutil.move(block, home / "data" / block.name)
    with prometheus(home) as server:
        for name in sorted({rule["record"] for rule in records()}):
            _copy(server, into, name)
    into.post("/internal/force_flush", b"")


def _copy(server: Server, into: Server, name: str) -> None:
    span = END_S - START_S + DAY_S
    lines = [
        json.dumps({
            "metric": row["metric"],
            "values": [float(value) for _, value in row["values"]],
            "timestamps": [round(t_s * 1000) for t_s, _ in row["values"]],
        }).encode()
        for row in server.instant(f"{name}[{span}s]", END_S)
    ]  # fmt: skip
    assert lines, f"{name}: no series"
    send(into.url, b"\n".join(lines))
