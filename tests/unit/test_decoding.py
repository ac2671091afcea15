"""No thread is ever the first to use a type: msgspec would crash the process."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scale import scaled
from tests.unit.first_use import USES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "exporter/joulebook"

MAKERS = frozenset({"Decoder", "Decoders", "converter"})
"""What must be called while a module is imported, and so under the lock of imports."""

HOMES = {
    "decoding.py": {"Decoder", "convert"},
    "config/load.py": {"convert"},
    "ledger/state.py": {"Decoder"},
    "kubernetes_api/watch.py": {"Decoder"},
}
"""Files that may: two define a maker, one calls its own while it is imported, one holds a lock."""


def late(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls by which a thread could be the first to use a type, with their lines."""
    for statement in ast.walk(tree):
        within = isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(statement) if within else ():
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            name = called.rpartition(".")[2]
            if name in MAKERS or (name == "convert" and called.startswith("msgspec")):
                yield node.lineno, name
            elif name == "decode" and any(key.arg == "type" for key in node.keywords):
                yield node.lineno, "decode"


def test_types_are_made_ready_at_import() -> None:
    found = {
        f"{file}:{line}: {name}"
        for path in PACKAGE.rglob("*.py")
        for file in [str(path.relative_to(PACKAGE))]
        for line, name in late(ast.parse(path.read_text()))
        if name not in HOMES.get(file, ())
    }
    assert not found, "make the decoder, or the converter, where the module is imported"


@pytest.mark.parametrize(
    "code",
    [
        "def f(b):\n    return msgspec.json.decode(b, type=Page)",
        "def f(b):\n    return msgspec.msgpack.decode(b, type=list[Page])",
        "def f(b):\n    return json.Decoder(Page).decode(b)",
        "def f(b):\n    return msgspec.convert(b, Page)",
        "class A:\n    def f(self, b):\n        return converter(Page)(b)",
        "f = lambda b: msgspec.yaml.decode(b, type=Page)",
    ],
)
def test_the_check_finds(code: str) -> None:
    assert list(late(ast.parse(code)))


@pytest.mark.parametrize("use", USES)
def test_threads_that_use_a_type_first_survive(use: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("first_use.py"), use, str(scaled(4))],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "0\n", done.stderr[-2000:]
