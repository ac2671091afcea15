"""Check that texts use the field's words, and none that only this project would use.

That is HELP texts, settings, the help of every command, README and docs, without the decision
records and the changelog, which are history. Code, and names of panels in italics, are left out.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from msgspec import Struct

from joulebook import cli
from joulebook.config import Config
from joulebook.config.load import keys
from joulebook.lab.advice.metrics import ADVICE
from joulebook.lab.collect.metrics import COLLECTOR
from joulebook.lab.serving.metrics import SERVING
from joulebook.metrics.catalogue import CATALOGUE
from joulebook.metrics.dcgm import METRICS

ROOT = Path(__file__).parents[2]

BETTER = {
    r"nobody's\b": "unattributed",
    r"whose it is": "its owner",
    r"of which it is": "another order",
    r"burnt": "consumed",
    r"learnt": "learned",
    r"(un)?told\b": "reported",
    r"anew": "again",
    r"reckoned": "estimated, computed",
    r"look(s|ed)? (at|again)": "read, poll, check, retry",
    r"asked (again|anew|for)": "queried, requested",
    r"in all\b(?! |:)": "in total",
    r"until then\b(?=,? (no|nothing|nobody))": "until it does",
    r"tenants?": "workloads",
    r"census": "snapshot",
    r"witness(es)?": "workload source",
    r"handed? over": "exported",
    r"belongs? into": "put in",
    r"(its|the) begin\b": "start",
    r"let(s|ting)? go": "release",
    r"takes? hold": "reopen",
    r"heard of": "known",
    r"goes by the name": "is called",
    r"neither, only": "another order",
}
"""Patterns of what is written, and what is better."""

OLD_NAMES = (
    "scene", "glance", "glances", "witness", "witnesses", "handover", "effort", "agenda", "burnt",
    "census", "looker", "untold", "supervisor", "complaint", "tenancy", "desk", "residents",
)  # fmt: skip
"""Words of names that the glossary replaced."""

_CODE = re.compile(
    r"(?ms)^```.*?^```$|^(?: {4}|\t).*?$|`[^`]*`|\]\([^)]*\)|<[^>\s]+>|(?<!\*)\*[A-Z][^*]*\*"
)


def settings(section: type[Struct], path: str) -> Iterator[tuple[str, str]]:
    for name, key in keys(section).items():
        here = f"{path}.{name}".strip(".")
        if key.section is not None:
            yield here, key.section.__doc__ or ""
            yield from settings(key.section, here)
        elif key.meta is not None:
            yield here, key.meta.description or ""
        if key.members is not None:
            yield from settings(key.members, f"{here}.*")


def helps() -> Iterator[tuple[str, str]]:
    for name, entry in cli.COMMANDS.items():
        yield f"joulebook --help: {name}", entry.summary
        command = cli.top.get_command(click.Context(cli.top), name)
        assert command is not None
        yield name, f"{command.help} {command.epilog or ''}"
        for option in command.params:
            yield f"{name} {option.opts[0]}", getattr(option, "help", None) or ""


def pages() -> Iterator[tuple[str, str]]:
    docs = ROOT / "docs"
    for page in [*docs.glob("*.md"), *docs.glob("deploy/*.md"), *ROOT.glob("*.md")]:
        if page.name == "CHANGELOG.md":
            continue
        yield str(page.relative_to(ROOT)), page.read_text("utf-8")


TEXTS = [
    *(
        (metric.name, metric.help)
        for metric in (*CATALOGUE, *COLLECTOR, *SERVING, *ADVICE, *METRICS)
    ),
    *settings(Config, ""),
    *helps(),
    *pages(),
]


@pytest.mark.parametrize(("where", "text"), TEXTS, ids=[where for where, _ in TEXTS])
def test_words_are_those_of_the_field(where: str, text: str) -> None:
    prose = re.sub(r"\s+", " ", _CODE.sub(" ", text))
    found = [
        f"{prose[max(hit.start() - 30, 0) : hit.end() + 30]!r}: better {better}"
        for written, better in BETTER.items()
        for hit in re.finditer(rf"\b(?:{written})", prose, re.IGNORECASE)
    ]
    assert found == [], where


def test_the_list_finds_what_it_is_for() -> None:
    text = "Idle energy of which it is not clear whose it is: nobody's share, burnt in all."
    found = [word for word in BETTER if re.search(rf"\b(?:{word})", text, re.IGNORECASE)]
    assert len(found) == 5


def test_names_are_those_of_the_glossary() -> None:
    old = re.compile(rf"(?:\b|_)(?:{'|'.join(OLD_NAMES)})(?:\b|_)")
    found = [
        f"{file.relative_to(ROOT)}: {name.string}"
        for file in sorted((ROOT / "exporter/joulebook").rglob("*.py"))
        for name in tokenize.generate_tokens(io.StringIO(file.read_text("utf-8")).readline)
        if name.type == tokenize.NAME and old.search(name.string)
    ]
    assert found == []
