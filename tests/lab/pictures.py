"""Draws the dashboards from the simulated lab into docs/images: `make pictures`.

The queries run against a real Prometheus; the answers are drawn by Grafana's own components
(`dashboards/render`) in headless Chromium. `ARGS="--nodes 200"` draws a lab of so many nodes (or of
none) into .build/pictures instead, made of copies of the last hours of the simulated one: to look
at what no test sees.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from tests.integration.postgresql import running
from tests.lab.backfill import backfill, promtool
from tests.lab.grafana import ROOT, asks, asks_of_ledger, dashboards, opened
from tests.lab.ledger import MONTH, collect
from tests.lab.scrape import Lab
from tests.lab.servers import Server, prometheus, victoria
from tests.lab.truth import truth
from tests.lab.world import DAY_S, END_S, HOUR_S, JOBS, NODES, SCRAPE_S

SOURCE = "grafana-postgresql-datasource"
RENDER = ROOT / ".build/render"
IMAGES = ROOT / "docs/images"
ROW_PX, HEAD_PX = 38, 56

_RUN = max(
    (job for job in JOBS if job.owner.experiment == "llm-pretrain" and job.t1_s < END_S),
    key=lambda job: job.t1_s,
)

SHOTS: tuple[tuple[str, int, str, dict[str, str]], ...] = (
    ("joulebook-lab", 30 * DAY_S, "Last 30 days", {}),
    ("joulebook-experiment", 7 * DAY_S, "Last 7 days",
        {"cluster": "lab", "account": "nlp", "experiment": "llm-pretrain"}),
    ("joulebook-workload", 2 * DAY_S, "Last 2 days", {"cluster": "lab", "workload": _RUN.id}),
    ("joulebook-node", 6 * HOUR_S, "Last 6 hours", {}),
    ("joulebook-health", DAY_S, "Last 24 hours", {}),
    ("joulebook-waste", 30 * DAY_S, "Last 30 days", {}),
    ("joulebook-compute", 30 * DAY_S, "Last 30 days", {}),
    ("joulebook-books", DAY_S, "Last 24 hours", {}),
    ("joulebook-serving", DAY_S, "Last 24 hours", {}),
)  # fmt: skip
"""What is drawn: the dashboard, its range, and what is chosen."""


def payload(
    server: Server, uid: str, span_s: int, words: str, chosen: dict[str, str]
) -> dict[str, Any]:
    """All that the page needs to draw a dashboard."""
    board = dashboards()[uid]
    values = opened(board) | {"currency": ("EUR",)}
    values |= {name: (text,) for name, text in chosen.items()}
    values = server.chosen(board, values, END_S, span_s, SCRAPE_S)
    ids = {(p["title"], t["refId"]): p["id"] for p in board["panels"] for t in p.get("targets", ())}
    answers = []
    for ask in asks(board, values, END_S, span_s, SCRAPE_S):
        answers.append({
            "panel": ask.panel, "id": ids[ask.panel, ask.ref], "ref": ask.ref,
            "rows": server.answer(ask), "legend": ask.legend,
            "start": ask.start_s, "end": ask.end_s, "step": ask.step_s,
        })  # fmt: skip
    return _page(board, answers, span_s, words, chosen)


def _page(
    board: dict[str, Any], answers: list[Any], span_s: int, words: str, chosen: dict[str, str]
) -> dict[str, Any]:
    names = [v["name"] for v in board["templating"]["list"] if not v.get("hide")]
    bottom = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in board["panels"])
    source = "PostgreSQL" if board["uid"] == "joulebook-billing" else "Prometheus"
    shown = [(n.capitalize(), chosen.get(n, source if n == "datasource" else "All"))
        for n in names]  # fmt: skip
    return {
        "dashboard": board, "answers": answers, "from": END_S - span_s, "to": END_S,
        "variables": [("Source" if n == "Datasource" else n, v) for n, v in shown],
        "range": words, "height": bottom * ROW_PX + HEAD_PX,
    }  # fmt: skip


def bill(url: str) -> dict[str, Any]:
    """The same of the dashboard that reads the collected ledger."""
    board = dashboards(SOURCE)["joulebook-billing"]
    answers = []
    with psycopg.connect(url) as conn:
        accounts = [row[0] for row in conn.execute("SELECT DISTINCT account FROM owners")]
        for panel, sql in asks_of_ledger(board, str(MONTH), accounts, END_S - 30 * DAY_S, END_S):
            cursor = conn.execute(sql.encode())
            names = [column.name for column in cursor.description or ()]
            rows = cursor.fetchall()
            answers.append({
                "panel": panel["title"], "id": panel["id"], "ref": "A", "step": DAY_S,
                "fields": [
                    {"name": name, **_field([row[n] for row in rows])}
                    for n, name in enumerate(names)
                ],
            })  # fmt: skip
    return _page(board, answers, 30 * DAY_S, "Last 30 days", {"month": str(MONTH)})


def _field(values: list[Any]) -> dict[str, Any]:
    """A column as Grafana's data source for PostgreSQL hands it on."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, datetime.datetime) for value in known):
        return {"type": "time", "values": [v and v.timestamp() * 1000 for v in values]}
    if any(isinstance(value, str) for value in known):
        return {"type": "string", "values": values}
    return {"type": "number", "values": [v if v is None else float(v) for v in values]}


def draw(what: dict[str, Any], mode: str, picture: Path) -> None:
    """One picture, its colours reduced so that it is small."""
    script = json.dumps({**what, "mode": mode}).replace("</", "<\\/")
    page = RENDER / f"{picture.stem}.html"
    page.write_text(
        '<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="app.css">'
        '<style>body{margin:0}</style><div id="root"></div>'
        f'<script>window.__payload = {script}</script><script src="app.js"></script>'
    )
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--user-data-dir={profile}", "--allow-file-access-from-files",
                f"--window-size=1416,{what['height']}", "--virtual-time-budget=20000",
                f"--screenshot={picture}", page.as_uri(),
            ],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
    if shutil.which("pngquant"):
        subprocess.run(
            ["pngquant", "--force", "--ext=.png", "--speed=1", "128", picture],
            check=True,
            timeout=60,
        )
    print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size // 1024} KiB")


COPIED_S = 3 * HOUR_S


def copies(home: Path, nodes: int) -> None:
    """A lab of so many nodes: each is the copy of one of the simulated lab, with users, experiments
    and jobs of its own.
    """
    home.mkdir(parents=True)
    (home / "data").mkdir()
    text = home / "lab.om"
    with text.open("w") as file:
        for number in range(nodes):
            again = f"-{number // len(NODES)}" if number >= len(NODES) else ""
            lab = Lab(truth(), NODES[number % len(NODES)])
            for series in lab.series(END_S - COPIED_S, END_S + 1):
                names = {**series.names, "cluster": "lab", "node": f"gpu-{number + 1:03}"}
                for name in {"user", "experiment", "workload", "uuid", "meter"} & names.keys():
                    names[name] += again
                metric = names.pop("__name__")
                labels = ",".join(f'{name}="{value}"' for name, value in names.items())
                for t_s, value in zip(series.times, series.values, strict=True):
                    file.write(f"{metric}{{{labels}}} {value} {t_s}\n")
        file.write("# EOF\n")
    if nodes:
        promtool("tsdb", "create-blocks-from", "openmetrics", "-q", text, home / "data")
    text.unlink()


def of_size(nodes: int, wanted: list[str], modes: tuple[str, ...] = ("light", "dark")) -> None:
    """Draw a lab of so many nodes, over its last hours."""
    to = ROOT / f".build/pictures/{nodes}"
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "lab"
        copies(home, nodes)
        with prometheus(home) as server:
            for uid, _, _, chosen in SHOTS:
                if not wanted or uid in wanted:
                    what = payload(server, uid, COPIED_S, "Last 3 hours", chosen)
                    for mode in modes:
                        draw(what, mode, to / f"{uid.removeprefix('joulebook-')}-{mode}.png")


def main() -> int:
    """Draw those that are named, or all; `--lab FOLDER` uses a lab that was made before."""
    parser = argparse.ArgumentParser()
    parser.add_argument("wanted", nargs="*")
    parser.add_argument("--lab", type=Path)
    parser.add_argument("--nodes", type=int)
    given = parser.parse_args()
    kept, wanted = given.lab, given.wanted
    if given.nodes is not None:
        of_size(given.nodes, wanted)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        home = kept or Path(scratch)
        if kept is None or not (home / "data").exists():
            with victoria(home) as second:
                backfill(home, second)
        with prometheus(home) as server:
            for uid, span_s, words, chosen in SHOTS:
                if not wanted or uid in wanted:
                    what = payload(server, uid, span_s, words, chosen)
                    _both(what, uid)
    if not wanted or "joulebook-billing" in wanted:
        with running() as postgresql:
            url = postgresql.new()
            collect(url)
            _both(bill(url), "joulebook-billing")
    return 0


def _both(what: dict[str, Any], uid: str) -> None:
    for mode in ("light", "dark"):
        draw(what, mode, IMAGES / f"{uid.removeprefix('joulebook-')}-{mode}.png")


if __name__ == "__main__":
    sys.exit(main())
