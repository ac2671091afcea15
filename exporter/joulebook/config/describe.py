"""Write a configuration as a TOML file, each key below a comment with its meaning and bounds."""

import inspect
import json
import textwrap
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from joulebook.config.load import dotted, expected, keys, redact

_WIDTH = 96
_PLAIN = ("text", "true or false", "a number", "a list, each text")
"""Types that the default value already shows."""


def toml(config: Struct) -> str:
    """Return the whole configuration as TOML, which loads to an equal one (but for secrets)."""
    return "\n".join([*_comment(inspect.getdoc(config)), *_table(config, ())]) + "\n"


def _table(section: Struct, path: tuple[str, ...]) -> Iterator[str]:
    tables: list[str] = []
    lines: list[str] = []
    for name, key in keys(type(section)).items():
        value = getattr(section, key.attribute)
        text = (key.meta.description if key.meta else None) or ""
        if isinstance(value, Struct):
            tables += _table(value, (*path, name))
        elif isinstance(value, dict):
            tables += ["", *_comment(text), f"[{dotted((*path, name))}]"]
            tables += [f"{quoted(k)} = {_inline(v)}" for k, v in value.items()]
        else:
            right = expected(key.bare, key.meta)
            lines += _comment(text if right in _PLAIN else f"{text} ({right})")
            lines.append(f"# {name} =" if value is None else f"{name} = {_inline(value)}")
    if lines:
        heading = [f"[{dotted(path)}]"] if path else []
        yield from ["", *_comment(inspect.getdoc(section)), *heading, *lines]
    yield from tables


def _comment(text: str | None) -> list[str]:
    return textwrap.wrap(text or "", _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _inline(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(redact(value))
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_inline(item) for item in value)}]"
    # Use the names in the file: a key may be a reserved word in Python (`from`).
    table = {
        field.encode_name: getattr(value, field.name)
        for field in (msgspec.structs.fields(value) if isinstance(value, Struct) else ())
    }
    pairs = [f"{name} = {_inline(item)}" for name, item in table.items() if item is not None]
    return "{ " + ", ".join(pairs) + " }"


def quoted(value: str) -> str:
    """Return a text as a basic string of TOML."""
    # A JSON string is a TOML basic string, except for DEL, which TOML requires escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
