"""Whatever the daemon and its commands advise names configuration keys and metrics that exist."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import joulebook
from joulebook.config import Config
from joulebook.config.load import keys
from joulebook.metrics import catalogue, dcgm

SOURCES = sorted(Path(joulebook.__path__[0]).rglob("*.py"))
SECTIONS = [field.encode_name for field in msgspec.structs.fields(Config)]
_KEY = re.compile(rf"(?<![\w./-])(?:{'|'.join(SECTIONS)})(?:\.[a-z][a-z0-9_]*)+(?![\w/(:]|\.\w)")
_SECTION = re.compile(r"\[((?:tenants|sensors|rates|daemon|exposition|report)(?:\.[a-z_]+)*)\]")
_METRIC = re.compile(r"\bjoulebook_[a-z_]+\b")

NO_KEYS = {"ledger.db", "workloads.id", "serving.html"}
"""Files, and a column in SQL."""

NO_METRICS = {"joulebook_schema"}
"""A table of the collected ledger."""

METRICS = {metric.name for metric in (*catalogue.CATALOGUE, *dcgm.METRICS)}


@functools.cache
def strings(source: Path) -> tuple[str, ...]:
    """The strings of a module but its docstrings."""
    return tuple(_strings(source))


def _strings(source: Path) -> Iterator[str]:
    tree = ast.parse(source.read_text("utf-8"))
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documents:
            yield str(node.value)


def named(text: str) -> set[str]:
    """The keys and sections that a text names."""
    return {match[0] for match in _KEY.finditer(text)} | set(_SECTION.findall(text)) - {*SECTIONS}


def exists(name: str) -> bool:
    """Whether the configuration has such a key, section or table."""
    section: type[msgspec.Struct] | None = Config
    for word in name.split("."):
        if section is None or word not in keys(section):
            return False
        section = keys(section)[word].section
    return True


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("mount the host's /sys and set sensors.hwmon.root", True),
        ("Set sensors.modules.includes_gpus = true", False),
        ("use [sensors.model]", True),
        ("use [sensors.modell]", False),
        ("no pattern in rates.hardware matches", True),
    ],
)
def test_a_key_that_is_not_there_is_found(text: str, right: bool) -> None:
    assert named(text)
    assert all(exists(name) for name in named(text)) is right


def test_every_advice_names_keys_that_exist() -> None:
    found = {(name, source.name) for source in SOURCES for text in strings(source)
             for name in named(text) - NO_KEYS}  # fmt: skip
    assert len(found) > 40
    assert {each for each in found if not exists(each[0])} == set()


def test_every_metric_that_is_named_exists() -> None:
    found = {
        name
        for source in SOURCES
        for text in strings(source)
        for name in set(_METRIC.findall(text)) - NO_METRICS
        if " " in text
    }
    assert {name for name in found if not any(m.startswith(name) for m in METRICS)} == set()
