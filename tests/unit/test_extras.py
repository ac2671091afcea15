"""The extras of the package: a client needs msgspec alone, and a command says which it lacks."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from joulebook.__main__ import NEEDS
from joulebook.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

HIDING = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

hidden = set(sys.argv.pop(1).split(","))
sys.meta_path.insert(0, Hidden())
"""
"""Where imported first, Python has only the standard library and what is not hidden."""


def needed(extra: str) -> set[str]:
    """Return the distributions that an extra installs, itself and all that they need."""
    wanted = list(PROJECT["dependencies"])
    wanted += PROJECT["optional-dependencies"][extra] if extra else []
    found: set[str] = set()
    while wanted:
        name, extras = re.match(r"([\w.-]+)(?:\[(.*?)\])?", wanted.pop()).groups()  # type: ignore[union-attr]
        if name == "joulebook":
            wanted += PROJECT["optional-dependencies"][extras]
            continue
        name = re.sub(r"[-_.]+", "-", name).lower()
        if name not in found:
            found.add(name)
            wanted += [
                each
                for each in metadata.distribution(name).requires or ()
                if "extra ==" not in each and _applies(each)
            ]
    return found


def _applies(requirement: str) -> bool:
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


@functools.cache
def hidden_by(extra: str) -> str:
    """Return the top-level modules that an installation with this extra alone lacks."""
    there = needed(extra)
    lacking = {
        module
        for module, names in metadata.packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", name).lower() in there for name in names)
    }
    return ",".join(sorted(lacking - {"joulebook", "google"}))


def run(extra: str, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("JOULEBOOK_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", HIDING + program, hidden_by(extra), *words],
        env={**own, "PYTHONPATH": str(ROOT / "exporter")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_client_needs_msgspec_and_nothing_else() -> None:
    assert [re.match(r"[\w.-]+", each)[0] for each in PROJECT["dependencies"]] == ["msgspec"]  # type: ignore[index]
    assert needed("") == {"msgspec"}
    assert needed("cli") < needed("node") & needed("lab") & needed("mlflow")
    assert needed("postgresql") == needed("lab")


def test_every_module_of_a_command_is_in_the_extra_that_it_names() -> None:
    extra_of = {**NEEDS, "mlflow": "cli"}  # MLflow itself is loaded last
    for extra in ("cli", "node", "lab"):
        modules = [
            f"joulebook.commands.{verb.place.partition(':')[0]}"
            for name, verb in COMMANDS.items()
            if verb.place and extra_of.get(name, "cli") == extra
        ]
        program = "import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
        done = run(extra, program, *modules)
        assert (done.returncode, done.stderr) == (0, ""), extra


MAIN = "from joulebook.__main__ import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["report"], "cli"), (["top", "--once"], "cli"), (["job", "1"], "cli"),
        (["run", "--demo"], "node"), (["doctor"], "node"), (["lab"], "lab"),
        (["mlflow", "sqlite:///x.db"], "mlflow"), ([], "cli"), (["--help"], "cli"),
        (["health", "--config", "x.toml"], "cli"),
    ],
)  # fmt: skip
def test_without_its_extra_a_command_names_it(words: list[str], extra: str) -> None:
    done = run("", MAIN, *words)
    assert (done.returncode, done.stdout) == (2, "")
    name = " ".join(["joulebook", *(word for word in words[:1] if word[0] != "-")])
    assert done.stderr == (
        f"{name} needs click, which is not installed here: pip install 'joulebook[{extra}]'\n"
    )


def test_with_the_commands_alone_the_daemon_names_what_it_lacks() -> None:
    done = run("cli", MAIN, "run", "--demo")
    assert done.returncode == 2
    assert done.stderr.endswith("is not installed here: pip install 'joulebook[node]'\n")


def test_mark_and_health_answer_without_any_extra(tmp_path: Path) -> None:
    program = f"""
import os
os.environ.update(JOULEBOOK_MARKS_DIR={str(tmp_path)!r}, JOULEBOOK_SERVER_LISTEN="127.0.0.1:1")
{MAIN}
"""
    marked = run("", program, "mark", "bert", "--", "sh", "-c", "exit 7")
    assert marked.returncode == 7
    health = run("", program, "health")
    assert health.returncode == 1
    assert health.stdout.startswith("joulebook health: ")


def test_what_a_program_imports_is_little() -> None:
    program = """
import json
bare = set(sys.modules)
import joulebook
joulebook.experiment
import joulebook.mark
print(json.dumps(sorted(set(sys.modules) - bare)))
"""
    done = run("", program)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert {"joulebook", "joulebook.experiment_span", "joulebook.mark"} <= {*loaded}
    heavy = {"asyncio", "inspect", "dataclasses", "logging", "ssl", "urllib.request", "sqlite3"}
    assert not heavy & {*loaded}
    assert [name for name in loaded if name.startswith(("joulebook.lab", "joulebook.core"))] == []
