"""The `kubernetes` package without what a node daemon does not need of it.

`import kubernetes` loads watchers, WebSockets, OAuth, an asynchronous twin and (before release 37)
every model of the API: 15 MiB of memory and more, where configuration, sign-in and transport take
two. So the two outer packages are put in place empty, and their modules imported by name. If a
release has moved them, the whole package is imported after all.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any, NamedTuple

_EMPTY = ("kubernetes", "kubernetes.config")


class Library(NamedTuple):
    """What is used of the package: its configuration, how it is read, and its transport."""

    configuration: Any
    incluster: Any
    load_kubeconfig: Any
    config_error: type[Exception]
    rest: Any


def library(*, kubeconfig: bool = False) -> Library:
    """Import the package; with `kubeconfig` also what reads such a file (OAuth and all)."""
    if "kubernetes" not in sys.modules and not kubeconfig:
        try:
            return _light()
        except (ImportError, AttributeError):
            for name in [n for n in sys.modules if n.split(".")[0] == "kubernetes"]:
                del sys.modules[name]
    client = importlib.import_module("kubernetes.client")
    config = importlib.import_module("kubernetes.config")
    rest = importlib.import_module("kubernetes.client.rest")
    return Library(
        client.Configuration,
        importlib.import_module("kubernetes.config.incluster_config").InClusterConfigLoader,
        config.load_kube_config,
        config.ConfigException,
        rest.RESTClientObject,
    )


def _light() -> Library:
    spec = importlib.util.find_spec("kubernetes")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("kubernetes is not installed")
    root = next(iter(spec.submodule_search_locations))
    for name in _EMPTY:
        package = ModuleType(name)
        package.__path__ = ["/".join((root, *name.split(".")[1:]))]
        sys.modules[name] = package
    try:
        incluster = importlib.import_module("kubernetes.config.incluster_config")
        configuration = importlib.import_module("kubernetes.client.configuration")
        rest = importlib.import_module("kubernetes.client.rest")
    finally:
        # Whoever imports the package by its name later (none of ours does) gets the real one.
        for name in _EMPTY:
            sys.modules.pop(name, None)
    return Library(
        configuration.Configuration,
        incluster.InClusterConfigLoader,
        None,
        incluster.ConfigException,
        rest.RESTClientObject,
    )
