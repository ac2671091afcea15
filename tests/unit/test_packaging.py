"""What is shipped: the wheel holds the package with its data, the locks hold every dependency."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "exporter" / "joulebook"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = re.search(r'__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text())


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from the checkout without network."""
    out = tmp_path_factory.mktemp("wheel")
    command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, check=False, timeout=60
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_all_of_the_package(wheel: zipfile.ZipFile) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", str(PACKAGE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    expected = {name.removeprefix("exporter/") for name in tracked if (ROOT / name).exists()}
    held = {name for name in wheel.namelist() if name.startswith("joulebook/")}
    assert "joulebook/core/energy/readings.py" in expected
    assert held == expected


@pytest.mark.parametrize("suffix", sorted({p.suffix for p in PACKAGE.rglob("*") if p.is_file()}))
def test_wheel_holds_each_kind_of_file(wheel: zipfile.ZipFile, suffix: str) -> None:
    if suffix == ".pyc":
        assert not [name for name in wheel.namelist() if name.endswith(suffix)]
    else:
        assert [name for name in wheel.namelist() if name.endswith(suffix)]


def test_a_client_is_less_than_three_mib_to_download(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    packed = zipfile.ZipFile(tmp_path / "msgspec.zip", "w", zipfile.ZIP_DEFLATED)
    for file in importlib.metadata.distribution("msgspec").files or ():
        if file.suffix != ".pyc":
            packed.write(str(file.locate()), str(file))
    packed.close()
    own = Path(str(wheel.filename)).stat().st_size
    assert own + (tmp_path / "msgspec.zip").stat().st_size < 3 * 2**20


def test_the_wheel_with_msgspec_is_all_that_a_program_needs(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    wheel.extractall(tmp_path)
    for file in importlib.metadata.distribution("msgspec").files or ():
        if file.parts[0] == "msgspec":
            (tmp_path / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(str(file.locate()), tmp_path / file)
    program = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import joulebook, joulebook.runs
with joulebook.experiment("bert", estimate=True) as run, run.window("epoch"):
    sum(range(1000))
assert run.known == "modelled, not measured" or "modelled" in run.known, run.known
assert joulebook.runs.figures(job="1") == {}
from joulebook.__main__ import main
sys.argv = ["joulebook", "mark", "bert", "--", "true"]
assert main() == 0
sys.argv = ["joulebook", "report"]
sys.exit(main())
"""
    # -S: without what is installed here, the standard library alone.
    done = subprocess.run(
        [sys.executable, "-S", "-W", "error", "-c", program, str(tmp_path)],
        env={"JOULEBOOK_MARKS_DIR": str(tmp_path), "JOULEBOOK_SERVER_LISTEN": "127.0.0.1:1",
             "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.endswith("pip install 'joulebook[cli]'\n")


def test_what_is_shipped_under_copyleft_is_named() -> None:
    locked = {
        name.lower().replace("_", "-")
        for lock in ("requirements.lock", "requirements-postgresql.lock")
        for name in re.findall(r"^([\w.-]+)(?:\[.*\])?==", (ROOT / lock).read_text(), re.MULTILINE)
    }
    notice = (ROOT / "NOTICE").read_text()
    copyleft = []
    for each in importlib.metadata.distributions():
        name = each.metadata["Name"].lower().replace("_", "-")
        fields = (each.metadata.get_all(key) or [] for key in ("License-Expression", "Classifier"))
        if name in locked and re.search(r"[GM]PL|EPL|CDDL|EUPL", str([*fields])):
            copyleft.append(name)
    assert {"psycopg", "certifi"} <= {*copyleft}
    assert [name for name in copyleft if not re.search(rf"\b{name}\b", notice)] == []


def test_wheel_installs_nothing_beside_the_package(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert VERSION is not None
    assert tops == {"joulebook", f"joulebook-{VERSION[1]}.dist-info"}


def test_wheel_has_command_and_licence(wheel: zipfile.ZipFile) -> None:
    assert VERSION is not None
    info = f"joulebook-{VERSION[1]}.dist-info"
    entry_points = ConfigParser()
    entry_points.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert dict(entry_points["console_scripts"]) == {"joulebook": "joulebook.__main__:main"}
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert f"{info}/licenses/NOTICE" in wheel.namelist()
    assert "License-Expression: Apache-2.0" in wheel.read(f"{info}/METADATA").decode()


def normal(name: str) -> str:
    """A distribution's name as comparisons need it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path: Path) -> dict[str, tuple[str, int]]:
    """Name to exact version and number of hashes, of a lock file."""
    text = path.read_text().replace("\\\n", " ")
    entries = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            found = re.match(r"([A-Za-z0-9._-]+)==(\S+)", line)
            assert found, f"{path.name}: not an exact version: {line[:60]}"
            hashes = re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line)
            entries[normal(found[1])] = (found[2], len(hashes))
    return entries


def wanted(requirements: list[str]) -> set[str]:
    """The names in a list of requirements, those of our own extras spelt out."""
    names = set()
    for each in requirements:
        own = re.fullmatch(r"joulebook\[(.+)\]", each)
        for extra in own[1].split(",") if own else ():
            names |= wanted(PROJECT["optional-dependencies"][extra])
        if own is None:
            names.add(normal(re.split(r"[^A-Za-z0-9._-]", each, maxsplit=1)[0]))
    return names


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("requirements.lock", [*PROJECT["dependencies"], "joulebook[node]"]),
        (
            "requirements-dev.lock",
            PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"],
        ),
        ("requirements-postgresql.lock", ["joulebook[node,postgresql]"]),
        ("requirements-build.lock", ["hatchling"]),
    ],
)
def test_lock_holds_every_dependency_with_hashes(lock: str, requirements: list[str]) -> None:
    entries = locked(ROOT / lock)
    assert wanted(requirements) <= set(entries), "run `make lock`"
    assert all(hashes > 0 for _, hashes in entries.values())


def test_tests_run_on_the_versions_that_are_shipped() -> None:
    product = locked(ROOT / "requirements.lock")
    dev = locked(ROOT / "requirements-dev.lock")
    assert {name: dev[name] for name in product} == product
    assert not {"pytest", "mypy", "ruff"} & set(product)


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("*.lock")))
def test_lock_names_no_place(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"https?:|file:|--(extra-)?index-url|--find-links|/opt/|/home/", text)


def test_packages_chart_and_image_have_the_same_version() -> None:
    assert VERSION is not None
    for path, pattern in (
        ("packaging/rpm/joulebook.spec", r"(?m)^Version: (.+)$"),
        ("helm/joulebook/Chart.yaml", r'(?m)^appVersion: "(.+)"$'),
        ("Dockerfile", r"(?m)^ARG VERSION=(.+)$"),
    ):
        found = re.search(pattern, (ROOT / path).read_text())
        assert found, path
        assert found[1] == VERSION[1], path
