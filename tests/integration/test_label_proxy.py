"""The dashboards of users through the real prom-label-proxy, on the simulated lab.

`make test` holds that every selector has the label (tests/unit/dashboards); here the proxy adds it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.test_dashboards import BOARDS
from tests.lab.backfill import made
from tests.lab.grafana import asks, opened
from tests.lab.servers import Server, prometheus
from tests.lab.world import DAY_S, END_S, SCRAPE_S
from tests.ports import free_port

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

VERSION = "v0.12.1"


def binary(build_dir: Path) -> Path:
    """The proxy, from the Go module proxy."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go here: prom-label-proxy is built from its module")
    folder = build_dir / "tools" / f"prom-label-proxy-{VERSION}"
    found = folder / "prom-label-proxy"
    if not found.exists():
        module = f"github.com/prometheus-community/prom-label-proxy@{VERSION}"
        subprocess.run(
            [go, "install", module], env={**os.environ, "GOBIN": str(folder)}, check=True,
            timeout=900,
        )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def upstream(build_dir: Path) -> Iterator[Server]:
    with made(build_dir) as home, prometheus(home) as server:
        yield server


def narrowed(build_dir: Path, upstream: Server, folder: Path, label: str, value: str) -> Server:
    """The proxy before a Prometheus."""
    port = free_port()
    command = [
        str(binary(build_dir)), "-label", label, "-label-value", value, "-upstream", upstream.url,
        "-insecure-listen-address", f"127.0.0.1:{port}", "-enable-label-apis",
    ]  # fmt: skip
    return Server("prom-label-proxy", port, command, folder / "proxy.log")


def rounded(rows: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Series by their labels; sums are added in any order."""
    return {
        json.dumps(row["metric"], sort_keys=True): [
            (when, float(f"{float(value):.9g}"))
            for when, value in row.get("values") or [row["value"]]
        ]
        for row in rows
    }


@pytest.mark.parametrize(
    ("uid", "label"), [("joulebook-mine", "user"), ("joulebook-account", "account")]
)
def test_a_proxy_shows_what_is_mine_and_nothing_else(
    uid: str, label: str, build_dir: Path, upstream: Server, tmp_path: Path
) -> None:
    board, span_s = BOARDS[uid], 7 * DAY_S
    counter = "joulebook_experiment_energy_joules_total"
    everybody = upstream.values(counter, label, END_S - span_s, END_S)
    mine = next(name for name in sorted(everybody) if name)
    others = set(everybody) - {mine, ""}
    assert others
    with narrowed(build_dir, upstream, tmp_path, label, mine) as proxy:
        assert proxy.values(counter, label, END_S - span_s, END_S) == [mine]
        # Whoever asks for somebody else by hand gets what is theirs.
        asked = f'{counter}{{{label}="{min(others)}"}}'
        assert {row["metric"][label] for row in proxy.instant(asked, END_S)} <= {mine}
        chosen = {**opened(board), label: (mine,)}
        full = 0
        for through, direct in zip(
            asks(board, opened(board), END_S, span_s, SCRAPE_S),
            asks(board, chosen, END_S, span_s, SCRAPE_S),
            strict=True,
        ):
            found = proxy.answer(through)
            assert rounded(found) == rounded(upstream.answer(direct)), through.panel
            assert {row["metric"].get(label, mine) for row in found} <= {mine}
            full += bool(found)
        assert full > 10
