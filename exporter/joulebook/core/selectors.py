"""Kubernetes label selectors, in the syntax of `kubectl get -l`.

    key=value, key==value, key!=value, key in (a, b), key notin (a, b), key, !key

joined by commas, all of which must hold. One of them may be `namespace:NAME`: alone it selects all
pods of a namespace, which also works if labels cannot be read. Grammar and meaning are those of
https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_NAMESPACE = "namespace:"
_COMMA = re.compile(r",(?![^(]*\))")
_KEY = r"(?P<key>[A-Za-z0-9][A-Za-z0-9./_-]*)"
_VALUE = r"[A-Za-z0-9]?[A-Za-z0-9._-]*"
_FORMS = (
    re.compile(rf"^{_KEY}\s*(?P<equals>=|==|!=)\s*(?P<value>{_VALUE})$"),
    re.compile(rf"^{_KEY}\s+(?P<among>in|notin)\s*\((?P<values>[^()]*)\)$"),
    re.compile(rf"^(?P<absent>!?)\s*{_KEY}$"),
)


class Requirement(NamedTuple):
    """One condition: whether the label's value is among `values` must be `wanted`.

    Without `values` it is whether there is such a label.
    """

    key: str
    values: frozenset[str] | None
    wanted: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Return whether labels fulfil it. A missing label is among no values."""
        there = self.key in labels
        if self.values is not None:
            there = there and labels[self.key] in self.values
        return there is self.wanted


class Selector(NamedTuple):
    """A selector from `infrastructure_selectors`."""

    namespace: str
    requirements: tuple[Requirement, ...]

    def matches(self, namespace: str, labels: Mapping[str, str] | None) -> bool:
        """Return whether a pod is meant; `labels` is `None` while they are not known."""
        if self.namespace and namespace != self.namespace:
            return False
        if labels is None:
            return not self.requirements
        return all(each.holds(labels) for each in self.requirements)

    @property
    def names(self) -> frozenset[str]:
        """Return what it selects by: its namespace, and the required values of labels."""
        values = [each.values for each in self.requirements if each.wanted and each.values]
        return frozenset({self.namespace}).union(*values)


def parse(text: str) -> Selector:
    """Return the selector that `text` says. Raises `ValueError` naming what is wrong."""
    parts = [part.strip() for part in _COMMA.split(text)]
    namespaces = [p.removeprefix(_NAMESPACE).strip() for p in parts if p.startswith(_NAMESPACE)]
    for name in namespaces:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            raise ValueError(f"{text!r}: expected the name of a namespace after {_NAMESPACE}")
    if len(namespaces) > 1:
        raise ValueError(f"{text!r}: a pod is in one namespace only; use one entry per namespace")
    labels = [part for part in parts if not part.startswith(_NAMESPACE)]
    return Selector("".join(namespaces), tuple(_requirement(label, text) for label in labels))


def _requirement(part: str, text: str) -> Requirement:
    for form in _FORMS:
        found = form.match(part)
        if found is None:
            continue
        said = found.groupdict()
        if "equals" in said:
            return Requirement(said["key"], frozenset({said["value"]}), said["equals"] != "!=")
        if "among" in said:
            values = [value.strip() for value in said["values"].split(",")]
            if not all(re.fullmatch(_VALUE, value) for value in values):
                break
            return Requirement(said["key"], frozenset(values), said["among"] == "in")
        return Requirement(said["key"], None, not said["absent"])
    raise ValueError(
        f"{text!r}: {part!r} is not a label selector; expected key=value, key!=value, key in (a, "
        "b), key notin (a, b), key, !key, or namespace:NAME"
    )
