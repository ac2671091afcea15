"""Which pods are meant: Kubernetes' label selectors, as `kubectl get -l` takes them.

    key=value, key==value, key!=value, key in (a, b), key notin (a, b), key, !key

joined by commas, all of which must hold. `namespace:NAME` means all pods of a namespace, which
can be reported where labels cannot be read. Grammar and meaning are those of
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
        """Whether labels fulfil it. A label that is not there is among no values."""
        there = self.key in labels
        if self.values is not None:
            there = there and labels[self.key] in self.values
        return there is self.wanted


class Selector(NamedTuple):
    """What a line of `infrastructure_selectors` means."""

    namespace: str
    requirements: tuple[Requirement, ...]

    def matches(self, namespace: str, labels: Mapping[str, str] | None) -> bool:
        """Whether a pod is meant; `labels` is `None` while they are not known."""
        if self.namespace:
            return namespace == self.namespace
        return labels is not None and all(each.holds(labels) for each in self.requirements)


def parse(text: str) -> Selector:
    """The selector that `text` says. Raises `ValueError` naming what is wrong."""
    if text.startswith(_NAMESPACE):
        name = text.removeprefix(_NAMESPACE).strip()
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
            raise ValueError(f"{text!r}: expected the name of a namespace after {_NAMESPACE}")
        return Selector(name, ())
    return Selector("", tuple(_requirement(part.strip(), text) for part in _COMMA.split(text)))


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
        f"{text!r}: {part!r} is no label selector; expected key=value, key!=value, "
        "key in (a, b), key notin (a, b), key, !key, or namespace:NAME"
    )
