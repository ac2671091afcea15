"""The keys that the Prometheus operator's CRDs know, from models that were made of them.

The API server prunes keys that a CRD does not know, so a typo in a ServiceMonitor is silence. The
models (PyPI) are only parsed: to import them would take their dependencies, and they accept
unknown keys besides.
"""

from __future__ import annotations

import ast
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.integration.pypi_wheel import fetch

PACKAGE = (
    "cloudcoil-models-prometheus-operator==0.80.1.0",
    "a139a60cc0114caace847a34275d7a7cd899ec2dad4120504d8e1cf6a8de0270",
)
SOURCE = "cloudcoil/models/prometheus_operator/v1.py"


class Key(NamedTuple):
    """What may stand under a key: models by name (none: anything), and whether it must be there."""

    models: tuple[str, ...]
    required: bool


Models = dict[str, dict[str, Key]]


def operator_models(build_dir: Path) -> Models:
    """Every model of the operator's API v1: the keys it knows."""
    requirement, sha256 = PACKAGE
    kept = build_dir / "tools" / f"prometheus-operator-{sha256[:12]}.py"
    if not kept.exists():
        wheel = fetch(requirement, sha256, build_dir / "tools")
        with zipfile.ZipFile(wheel) as archive:
            partial = wheel.with_suffix(".py")
            partial.write_bytes(archive.read(SOURCE))
            partial.rename(kept)
        shutil.rmtree(wheel.parent)
    tree = ast.parse(kept.read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return {name: dict(_keys(node, set(classes))) for name, node in classes.items()}


def _keys(model: ast.ClassDef, names: set[str]) -> Iterator[tuple[str, Key]]:
    for statement in model.body:
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        text = ast.unparse(statement.annotation)
        alias = re.search(r"alias='([^']+)'", text)
        named = tuple(word for word in re.findall(r"[A-Za-z_]\w*", text) if word in names)
        yield (
            alias[1] if alias else statement.target.id,
            Key(named, statement.value is None and "Optional[" not in text),
        )


def faults(thing: object, model: str, models: Models, where: str = "") -> list[str]:
    """Keys that the model does not know, and those that it lacks, by path."""
    where = where or model
    if isinstance(thing, list):
        return [
            fault
            for at, each in enumerate(thing)
            for fault in faults(each, model, models, f"{where}[{at}]")
        ]
    if not isinstance(thing, dict):
        return []
    known = models[model]
    found = [f"{where}: unknown key {key}" for key in thing if key not in known]
    found += [f"{where}: no {key}" for key, of in known.items() if of.required and key not in thing]
    for key, value in thing.items():
        for below in known[key].models[:1] if key in known else ():
            found += faults(value, below, models, f"{where}.{key}")
    return found
