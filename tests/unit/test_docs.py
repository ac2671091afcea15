"""What the pages name is there: files, headings, commands, settings, metrics, targets of make."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from tests.command_line import parsed

from joulebook.config import Config, env_names
from joulebook.config.load import keys
from joulebook.lab.advice.metrics import ADVICE
from joulebook.lab.collect.metrics import COLLECTOR as OF_COLLECT
from joulebook.lab.serving.metrics import SERVING
from joulebook.metrics.catalogue import BY_NAME

ROOT = Path(__file__).parents[2]

PAGES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
]

SECTIONS = "|".join(keys(Config))

_HEADING = re.compile(r"(?m)^#{1,6} +(.+?) *#*$")
_FENCE = re.compile(r"(?ms)^```.*?^```$")
_LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", re.M)
_VARIABLE = re.compile(r"JOULEBOOK_[A-Z_]*[A-Z]")
_CODE = re.compile(r"`([^`\n]+)`")


@cache
def text_of(page: Path) -> str:
    return page.read_text("utf-8")


@cache
def anchors(page: Path) -> set[str]:
    """What a heading is called in a link, as GitHub makes it."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(_FENCE.sub("", text_of(page)))
    }


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    dead = []
    for inline, reference in _LINK.findall(_FENCE.sub("", text_of(page))):
        link = inline or reference
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def typed(page: Path) -> Iterator[list[str]]:
    """What a page tells people to type: indented lines, and code that begins with a program."""
    text = text_of(page)
    lines = re.findall(r"(?m)^(?:    |\$ )(\S.*)$", text)
    lines = [line for line in lines if not re.search(r" {3,}[\d.]+ ", line)]  # tables of figures
    lines += [code for code in _CODE.findall(text) if code.startswith(("joulebook ", "make "))]
    for line in lines:
        for part in re.split(r"&&|\|(?= )|;", line.partition("  #")[0]):
            with contextlib.suppress(ValueError):  # prose, with an apostrophe
                if words := shlex.split(part, comments=True):
                    yield words


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_are_those_that_there_are(page: Path) -> None:
    wrong = [
        " ".join(words) for words in typed(page) if words[0] == "joulebook" and not known(words[1:])
    ]
    assert wrong == []


def known(words: list[str]) -> bool:
    """Whether the command line takes it; a page may name it without operands and values."""
    try:
        parsed(*words)
    except (click.MissingParameter, click.BadOptionUsage):
        return True
    except click.ClickException:
        return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_targets_of_make_are_those_that_there_are(page: Path) -> None:
    makefile = text_of(ROOT / "Makefile")
    for words in typed(page):
        if words[0] == "make" and len(words) > 1:
            assert re.search(rf"(?m)^{re.escape(words[1])}:", makefile), words


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_settings_are_those_that_there_are(page: Path) -> None:
    paths = {".".join(path) for path in env_names().values()}
    tables = {path.rpartition(".")[0] for path in paths} | {
        "rates.hardware",
        "budgets",
        "lab.coordinators",
        "lab.results",
        "serving.targets",
        "serving.cost_limits",
    }
    tables |= {table.partition(".")[0] for table in tables}
    wrong = []
    for code in _CODE.findall(text_of(page)):
        name = re.split(r"[ =]", code)[0].strip("[]")
        if re.fullmatch(rf"(?:{SECTIONS})(?:\.[a-z_0-9]+)+", name) and not (
            name in {*paths, *tables, "ledger.advance"}  # the last is of the core
            or name.endswith(".py")
        ):
            wrong.append(code)
    read_elsewhere = set(_VARIABLE.findall(sources()))  # by hooks, and secrets
    assert set(_VARIABLE.findall(text_of(page))) <= {*env_names(), *read_elsewhere}
    assert wrong == []


@cache
def sources() -> str:
    package = ROOT / "exporter/joulebook"
    return "".join(p.read_text() for end in ("py", "sh") for p in package.rglob(f"*.{end}"))


@cache
def rules() -> set[str]:
    """The middle of each recording rule's name."""
    text = text_of(ROOT / "dashboards/rules/recording.rules.yaml")
    return set(re.findall(r"record: \w+:(joulebook_\w+):", text))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_metrics_are_those_that_there_are(page: Path) -> None:
    ours = {*BY_NAME, *(metric.name for metric in (*OF_COLLECT, *SERVING, *ADVICE)), *rules()}
    wrong = [
        name
        for name in re.findall(r"\bjoulebook_[a-z0-9_]+[a-z]\b(?!\.|/)", text_of(page))
        if name not in ours and not any(full.startswith(f"{name}_") for full in ours)
    ]
    assert wrong == []


def test_decisions_are_numbered_in_one_row() -> None:
    numbers = sorted(int(p.name[:4]) for p in (ROOT / "docs/adr").glob("[0-9]*.md"))
    assert numbers == list(range(len(numbers)))


def test_every_page_has_its_place_on_the_site(repository: Path) -> None:
    """`make site` builds it; a page that its index does not list is an error there."""
    index = (repository / "docs/index.md").read_text("utf-8").splitlines()
    pages = {str(page.relative_to(repository / "docs"))[:-3] for page in PAGES
             if page.is_relative_to(repository / "docs")}  # fmt: skip
    assert {page for page in pages if not re.match(r"adr/\d|index$", page)} <= {*index}


def test_every_picture_is_shown(repository: Path) -> None:
    """By day or by night: a page of docs/ shows each picture that there is."""
    shown = {
        name.replace("-dark", "-light")
        for page in PAGES
        for name in re.findall(r"images/([\w-]+\.(?:png|svg))", text_of(page))
    }
    there = {path.name for path in (repository / "docs/images").iterdir()}
    assert {name.replace("-dark", "-light") for name in there} == shown


def test_the_glossary_has_a_word_and_its_meaning_in_each_line(repository: Path) -> None:
    rows = [
        line.strip("|").split("|")
        for line in (repository / "docs/glossary.md").read_text("utf-8").splitlines()
        if line.startswith("|")
    ]
    assert [row for row in rows if len(row) != 2] == []
    words = {word.strip(" `") for row in rows for word in row[0].split(",")}
    core = {"meter", "reading", "claim", "evidence", "posting", "remainder", "workload", "span"}
    assert (
        core | {"counter step", "interval", "outage", "run", "rejection", "exposed series"} <= words
    )
