"""The dashboards fit the types of Grafana 11, 12 and 13 (needs npm)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.lab.grafana import FILES, ROOT

VERSIONS = {"11": "11.6.0", "12": "12.4.11", "13": "13.2.3"}


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_dashboards_fit_the_schema(version: str, tmp_path: Path) -> None:
    script = tmp_path / "schema.mjs"
    script.write_text((ROOT / "dashboards/render/schema.mjs").read_text())
    wanted = [f"@grafana/schema@{version}", "typescript@5.9"]
    for command in (
        ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *wanted],
        ["node", str(script), *map(str, FILES)],
    ):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(FILES)} dashboards fit Grafana {version}" in done.stdout
