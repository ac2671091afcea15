"""No circle of imports: neither between modules nor between folders of one folder.

import-linter holds the layers; within a layer it is this test.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

Edges = Mapping[str, set[str]]


def circle(edges: Edges) -> list[str]:
    """The names on one circle, the first again at its end; nothing if there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def between_folders(imports: Edges) -> Iterator[Edges]:
    """For each folder, which of the folders in it imports which other one."""
    folders = {module.rpartition(".")[0] for module in imports}
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for importer, imported in imports.items():
        for other in imported:
            mine, theirs = importer.split("."), other.split(".")
            shared = next(
                (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None
            )
            if shared is None:
                continue
            one, two = ".".join(mine[: shared + 1]), ".".join(theirs[: shared + 1])
            if {one, two} <= folders:
                found[".".join(mine[:shared])][one].add(two)
    yield from found.values()


@pytest.fixture(scope="module")
def imports() -> Edges:
    graph = grimp.build_graph("joulebook", cache_dir=None)
    return {each: graph.find_modules_directly_imported_by(each) for each in graph.modules}


def test_no_circle_between_modules(imports: Edges) -> None:
    assert len(imports) > 200
    assert not circle(imports)


def test_no_circle_between_sibling_folders(imports: Edges) -> None:
    assert not [found for edges in between_folders(imports) if (found := circle(edges))]


def test_the_check_finds_circles() -> None:
    modules = {"p.a.x": {"p.b.y"}, "p.b.y": set(), "p.b.z": {"p.a.x"}, "p.c": {"p.b.y"}}
    assert not circle(modules)
    (edges,) = between_folders(modules)
    assert set(circle(edges)) == {"p.a", "p.b"}
    assert circle({"a": {"b"}, "b": {"a"}})


def test_http_is_asked_in_one_place(repository: Path) -> None:
    """A client in users' programs takes the standard library, as `joulebook health` does."""
    package = repository / "exporter/joulebook"
    speaks = re.compile(r"^\s*(?:import|from) (?:urllib3|urllib\.request|http\.client)\b", re.M)
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if speaks.search(file.read_text("utf-8"))
    }
    assert found == {"http_client.py", "http_pool.py", "run_figures.py"}


def test_no_file_is_longer_than_350_lines(repository: Path) -> None:
    package = repository / "exporter/joulebook"
    lengths = {
        str(file.relative_to(package)): len(file.read_text("utf-8").splitlines())
        for file in package.rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > 350} == {}


def test_one_module_reads_the_stat_of_a_process(repository: Path) -> None:
    """Besides it the one that researchers import, and the daemon's own for `process_*`."""
    package = repository / "exporter/joulebook"
    reads = re.compile(r"""/stat["'`]\)?""")
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if any(
            reads.search(line) and "read" in line for line in file.read_text("utf-8").splitlines()
        )
    }
    own = {"experiment_span.py", "metrics/derived.py"}
    assert found - own == {"node/workloads/host/procfs.py"}
