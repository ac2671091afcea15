"""YAML that people can read: expressions as blocks of lines, keys in the order given."""

from __future__ import annotations

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def yaml_of(value: dict[str, Any], about: str) -> str:
    """A document with a comment at its head."""
    head = "".join(f"# {line}\n" for line in about.splitlines())
    return head + yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
