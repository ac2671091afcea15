"""Draws the lab server's pages into docs/images with a real Chromium: part of `make pictures`.

`python -m tests.lab.lab_pages --to FOLDER` draws every page in every mode, to look at.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvicorn
from tests.integration.browser import Browser, chromium
from tests.lab.grafana import ROOT
from tests.unit.lab.collected.nodes import DAY_S, NOVEMBER_S, Node
from tests.unit.lab.web.served import application

from joulebook.core.evidence import Amount
from joulebook.core.ledger.export import ChargeRow, PostingRow, PostingsPage
from joulebook.core.money.amounts import Exact
from joulebook.core.money.rates import NANO
from joulebook.lab.collected import bills, corrections, ingest
from joulebook.lab.collected.corrections import Reason, Transfer
from joulebook.lab.collected.database import opened
from joulebook.lab.collected.schema import BilledOwner
from joulebook.lab.web.grants import GrantKind, Grants
from joulebook.units import NS_PER_HOUR, NS_PER_S, UJ_PER_J, UJ_PER_KWH

QUARTER_S = 900
NOW_S = NOVEMBER_S + 29 * DAY_S
FIRST_S = NOVEMBER_S - 92 * DAY_S
EUR_PER_KWH, EUR_PER_HOUR, KG_PER_KWH = 0.31, 0.52, 0.27
GPU_W, IDLE_W, GPUS = 540.0, 72.0, 1

PEOPLE = (
    ("ada", "nlp", "llm-pretrain", 0.07), ("ada", "nlp", "tokenizer-sweep", 0.35),
    ("grace", "nlp", "retrieval", 0.12), ("grace", "vision", "vit-sweep", 0.55),
    ("alan", "vision", "segment", 0.2), ("rosalind", "bio", "cryo-em", 0.28),
)  # fmt: skip
"""User, account, experiment, and the share of the time that their GPUs idle."""

SHOTS = {
    "lab-overview": "/?month=2026-11",
    "lab-me": "/me?month=2026-11",
    "lab-jobs": "/jobs?month=2026-11",
    "lab-job": "/job/1040",
    "lab-experiment": "/experiment?name=llm-pretrain&account=nlp",
    "lab-bills": "/bills",
    "lab-bill": "/bills/2026-10",
    "lab-leaderboards": "/leaderboards",
    "lab-leaderboard": "/leaderboards/1",
    "lab-nodes": "/nodes",
}
KEPT = (
    "lab-overview-light", "lab-overview-dark", "lab-overview-phone", "lab-me-light",
    "lab-job-light", "lab-experiment-light", "lab-bill-light", "lab-leaderboard-light",
)  # fmt: skip
"""What the documentation shows."""


class Mode(NamedTuple):
    """A window, and the colours that its user prefers."""

    width: int
    height: int
    dark: bool


MODES = {"light": Mode(1200, 1000, False), "dark": Mode(1200, 1000, True),
         "phone": Mode(390, 844, False), "phone-dark": Mode(390, 844, True)}  # fmt: skip


class Busy(Node):
    """A node whose jobs hold GPUs, idle for a part of the time, and are charged for it."""

    def use(self, when_s: int, job: str, watts: float, idle: float, gpus: int) -> None:
        """Book a quarter hour to a job."""
        who, held_ns = self.workloads[job].id, gpus * QUARTER_S * NS_PER_S
        idle_ns = round(held_ns * idle)
        idle_uj = round(IDLE_W * gpus * idle * QUARTER_S * UJ_PER_J)
        energy_uj = round(watts * gpus * (1 - idle) * QUARTER_S * UJ_PER_J) + idle_uj
        self.postings[when_s, who, ""] = PostingRow(
            self._next(), when_s, 1, who, "", "counter", "prolog", energy_uj, idle_uj, held_ns,
            idle_ns,
        )  # fmt: skip
        kwh, hours = energy_uj / UJ_PER_KWH, held_ns / NS_PER_HOUR
        for item, currency, amount in (
            ("electricity", "EUR", kwh * EUR_PER_KWH),
            ("idle_electricity", "EUR", idle_uj / UJ_PER_KWH * EUR_PER_KWH),
            ("hardware", "EUR", hours * EUR_PER_HOUR),
            ("idle_hardware", "EUR", hours * idle * EUR_PER_HOUR),
            ("co2e", "", kwh * KG_PER_KWH),
        ):
            self.charges[when_s, who, item, currency] = ChargeRow(
                self._next(), when_s, who, "", item, currency,
                *divmod(round(amount * NANO), NANO), 0,
            )  # fmt: skip
        self.booked_to_s = max(self.booked_to_s, when_s + QUARTER_S)

    def page(self, since: int, limit: int = 10_000) -> PostingsPage:
        """Return the page without a total of charges, which here is of several items."""
        return msgspec.structs.replace(super().page(since, limit), charged=())


def busy(name: str, number: int) -> Busy:
    """A node with three months of jobs."""
    node = Busy(name, f"{number:032x}", "lab")
    at_s, job = FIRST_S, 1000 + number
    while at_s < NOW_S - DAY_S:
        user, account, experiment, idle = PEOPLE[(job // 2 * 5 + job // 14) % len(PEOPLE)]
        hours = 2 + job * 13 % 23
        start_ns, end_s = at_s * NS_PER_S, at_s + hours * 3600
        node.label(
            str(job), account, user, experiment, name=f"{experiment}-{job % 10}", named=True,
            started_utc_ns=start_ns, ended_utc_ns=end_s * NS_PER_S, gpu_count=GPUS,
            outcome="success" if job % 9 else "failure",
        )  # fmt: skip
        for quarter_s in range(at_s, end_s, QUARTER_S):
            hour = (quarter_s - at_s) / 3600
            share = min(0.97, idle * (1 + 0.8 * math.sin(hour * 2 + job)))
            watts = GPU_W * (0.86 + 0.1 * math.sin(hour / 3 + job))
            node.use(quarter_s, str(job), watts, share, GPUS)
        node.burn(end_s, round(IDLE_W * GPUS * 3600 * UJ_PER_J), "")
        at_s, job = end_s + (1 + job % 3) * 3600, job + 2
    return node


def collect(folder: Path) -> str:
    """A collected ledger of three months, the first of them closed; its URL."""
    url = f"sqlite://{folder / 'collected.db'}"
    with opened(url, create=True) as database:
        for number in (1, 2):
            node, since = busy(f"gpu-0{number}", number), 0
            while since < node.last:
                page = node.page(since)
                ingest.take(database, page, node.name, NOW_S)
                since = page.next
        for month in (202608, 202609, 202610):
            with contextlib.suppress(Exception):
                bills.close(database, month, "grace", NOVEMBER_S + 2 * DAY_S)
        corrections.correct(
            database, BilledOwner("", "vision", "grace", "vit-sweep"), BilledOwner("unallocated"),
            [Transfer("gpu", Amount(2 * UJ_PER_KWH, 0, 0)),
             Transfer(item="electricity", currency="EUR", billed=Exact(0, 640_000_000))],
            Reason("correction", "grace", "GPU fell off the bus", NOVEMBER_S + 3 * DAY_S),
        )  # fmt: skip
        results = "experiment,run,metric,value\n" + "".join(
            f"{each[2]},,accuracy,{88.5 + n * 1.3:.1f}\n" for n, each in enumerate(PEOPLE)
        )
        rows = [(1, "ada", "autumn models", results, '[[], "", "", "", ""]', NOW_S)]
        database.many("INSERT INTO lab_results VALUES (?, ?, ?, ?, ?, ?)", rows)
    return url


@contextlib.contextmanager
def serving(url: str) -> Iterator[str]:
    """A lab server on a ledger; its address."""
    with application(url, admins=("ada",)) as app:
        server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off")
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def enter(browser: Browser, base: str, url: str, user: str) -> None:
    """Log in as a user, by a link."""
    with opened(url) as database:
        link = Grants(database, lambda: NOW_S).make(GrantKind.LINK, user, "command", 300)
    browser.open(f"{base}/enter/{link}")
    browser.click("button.main")
    browser.shows("Log out")


def draw(to: Path, wanted: tuple[str, ...]) -> None:
    """Draw pages in modes, as `page-mode`; nothing wanted: all of them."""
    with tempfile.TemporaryDirectory() as folder:
        url = collect(Path(folder))
        with serving(url) as base:
            for name, mode in MODES.items():
                with chromium(mode.width, mode.height, dark=mode.dark) as browser:
                    enter(browser, base, url, "ada")
                    for shot, path in SHOTS.items():
                        if not wanted or f"{shot}-{name}" in wanted:
                            browser.open(f"{base}{path}")
                            browser.whole(mode.width, 1400 if wanted else 20_000)
                            browser.picture(to / f"{shot}-{name}.png")


def main() -> int:
    """Draw what the documentation shows, or all of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--to", type=Path)
    to: Path | None = parser.parse_args().to
    draw(to or ROOT / "docs/images", () if to else KEPT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
