"""Documented structs (`Section`), and the conversion of values from TOML, YAML and environment.

Every problem is reported, not only the first, with its source, key, value, and what is expected.
"""

import difflib
import functools
import math
import re
import threading
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from joulebook.errors import ConfigError

StructT = TypeVar("StructT", bound=Struct)

_CONVERTING = threading.Lock()
"""Serializes conversions: msgspec must not see a new type in several threads (see `decoding`)."""

_USERINFO = re.compile(r"://[^\s'\"]{0,500}@")
"""To the last `@`: a password may have one, or a slash, that should have been escaped."""
_NAMES_SECRET = re.compile(r"token|password|secret|credential|key(?!\w)", re.IGNORECASE)
"""In the name of a key: what stands there by mistake may be the secret."""
_LOOKS_SECRET = re.compile(r"[\w+=.-]{20,79}", re.ASCII)
"""A text without a blank or a slash that is as long as keys are."""

_SECRET = re.compile(
    r"([?&;#][\w.%-]{0,80}(?:p[\w%]{0,10}ord|pass|pwd|token|key|secret|sig|signature)="
    r"|\b(?:ssl)?password=|://[^/\s'\"]+/(?:services|hooks|(?:api/)?webhook\w*)/)"
    r"(?:'[^']*'|[^&;#\s'\"]+)",
    re.IGNORECASE,
)
"""In the query of a URL, in a connection string of PostgreSQL, or the path of a webhook."""


class EnvValue(NamedTuple):
    """A value given to a key by an environment variable."""

    variable: str
    text: str


class SettingKey(NamedTuple):
    """One key of a section, from its annotation."""

    name: str
    """As written in the file."""
    attribute: str
    type: Any
    """With its `Meta`, for conversion."""
    bare: Any
    """Without `Meta` and without `None`."""
    meta: Meta | None
    default: Any

    @property
    def section(self) -> type[Struct] | None:
        """The struct, if the key is a table of known names."""
        return self.bare if isinstance(self.bare, type) and issubclass(self.bare, Struct) else None

    @property
    def members(self) -> type[Struct] | None:
        """The struct of each member, if the key is a table of free names."""
        if get_origin(self.bare) is not dict:
            return None
        member = get_args(self.bare)[1]
        return member if isinstance(member, type) and issubclass(member, Struct) else None


def redact(text: str) -> str:
    """Return the text without the user, password and other secrets of any URL in it."""
    return _SECRET.sub(r"\1***", _USERINFO.sub("://***@", text))


@functools.cache
def keys(cls: type[Struct]) -> dict[str, SettingKey]:
    """Return the keys of a section by their name in the file, in order.

    No module of sections has `from __future__ import annotations`: every start of the daemon would
    evaluate hundreds of strings, which takes longer than to read the file.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for field in msgspec.structs.fields(cls):
        hint = hints[field.name]
        bare, meta = _stripped(hint)
        found[field.encode_name] = SettingKey(
            field.encode_name, field.name, hint, bare, meta, field.default
        )
    return found


def leaves(cls: type[Struct], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the paths of all keys except tables of free names."""
    for name, key in keys(cls).items():
        if key.section is not None:
            yield from leaves(key.section, (*path, name))
        elif get_origin(key.bare) is not dict:
            yield (*path, name)


def read(cls: type[StructT], data: object, source: str, *, show: bool = True) -> StructT:
    """Build a `cls` from `data`, which came from `source` (a file, for messages).

    Raises `ConfigError` with one line per problem, without the values if `show` is off (they may be
    secrets).
    """
    reader = _Reader(cls, source, show)
    with _CONVERTING:
        try:
            result = reader.struct(cls, data, ())
        except RecursionError:
            raise ConfigError(f"{source}: keys or values are nested too deeply") from None
    if reader.problems:
        raise ConfigError("\n".join(reader.problems))
    return typing.cast(StructT, result)


def _stripped(hint: object) -> tuple[object, Meta | None]:
    meta = None
    if get_origin(hint) in {Union, types.UnionType}:
        rest = tuple(arg for arg in get_args(hint) if arg is not types.NoneType)
        if len(rest) == 1:
            hint = rest[0]
    if get_origin(hint) is Annotated:
        hint, *extras = get_args(hint)
        meta = next((part for part in extras if isinstance(part, Meta)), None)
    return hint, meta


def expected(bare: object, meta: Meta | None = None) -> str:
    """Describe what a key accepts."""
    origin, args = get_origin(bare), get_args(bare)
    if origin is Literal:
        return "one of " + ", ".join(f'"{value}"' for value in args)
    if origin in {Union, types.UnionType}:
        return " or ".join(expected(arg) for arg in args).replace("one of ", "")
    if origin in {tuple, list}:
        return f"a list, each {expected(args[0])}"
    words: dict[object, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
    }
    text = words.get(bare, "a table")
    if meta is None:
        return text
    if meta.ge is not None:
        text += f" from {meta.ge:g}" if meta.le is not None else f" of at least {meta.ge:g}"
    if meta.gt is not None:
        text += f" above {meta.gt:g}"
    if meta.le is not None:
        text += f" to {meta.le:g}" if meta.ge is not None else f", at most {meta.le:g}"
    return text + (f" like {meta.pattern}" if meta.pattern else "")


class _Reader:
    """One pass over the data, which collects `problems`."""

    def __init__(self, root: type[Struct], source: str, show: bool) -> None:
        self.root = root
        self.source = source
        self.show = show
        self.problems: list[str] = []

    def struct(self, cls: type[Struct], data: object, path: tuple[str, ...]) -> Struct | None:
        if not isinstance(data, Mapping):
            self._wrong(path, data, "a table")
            return None
        known = keys(cls)
        values: dict[str, object] = {}
        before = len(self.problems)
        for name, value in data.items():
            here = (*path, str(name))
            key = known.get(name)
            if key is None:
                self._unknown(here, value, known)
            elif key.section is not None:
                values[key.attribute] = self.struct(key.section, value, here)
            elif key.members is not None:
                values[key.attribute] = self._members(key.members, value, here)
            else:
                values[key.attribute] = self._leaf(key, value, here)
        return cls(**values) if len(self.problems) == before else None

    def _members(self, cls: type[Struct], data: object, path: tuple[str, ...]) -> object:
        if not isinstance(data, Mapping):
            self._wrong(path, data, "a table")
            return None
        return {str(n): self.struct(cls, member, (*path, str(n))) for n, member in data.items()}

    def _leaf(self, key: SettingKey, value: object, path: tuple[str, ...]) -> object:
        right = expected(key.bare, key.meta)
        try:
            if isinstance(value, EnvValue):
                found = _from_text(value.text, key)
            else:
                found = msgspec.convert(value, key.type)
        except (ValueError, RecursionError):  # of msgspec, tomllib and Unicode
            self._wrong(path, value, right)
            return None
        # Not every key has bounds that rule these out, and none of ours may be one.
        texts = (found,) if isinstance(found, str) else found if isinstance(found, tuple) else ()
        if (isinstance(found, float) and not math.isfinite(found)) or any(
            isinstance(text, str) and "\0" in text for text in texts
        ):
            self._wrong(path, value, right)
            return None
        return found

    def _wrong(self, path: tuple[str, ...], value: object, right: str) -> None:
        if isinstance(value, EnvValue):
            where, value = f"environment variable {value.variable}: {dotted(path)}", value.text
        else:
            where = f"{self.source}: {dotted(path)}"
        shown = "" if _may_be_secret(" ".join(path), value) else self._shown(value)
        self.problems.append(f"{where}{shown}: expected {right}")

    def _unknown(
        self, path: tuple[str, ...], value: object, known: Mapping[str, SettingKey]
    ) -> None:
        name = path[-1]
        close = difflib.get_close_matches(name, known, 1)
        elsewhere = [leaf for leaf in leaves(self.root) if leaf[-1] == name]
        if close:
            hint = f"did you mean {dotted((*path[:-1], close[0]))}?"
        elif elsewhere:
            hint = f"did you mean {' or '.join(dotted(leaf) for leaf in elsewhere)}?"
        else:
            hint = f"known here: {', '.join(known)}"
        about = f"{name} {close} {value if isinstance(value, Mapping) else ''}"
        shown = "" if _may_be_secret(about, value) else self._shown(value)
        self.problems.append(f"{self.source}: {dotted(path)}{shown}: unknown key; {hint}")

    def _shown(self, value: object) -> str:
        if not self.show:
            return ""
        text = redact(repr(value))
        return f" = {text if len(text) <= 80 else text[:77] + '...'}"


def _may_be_secret(about: str, value: object) -> bool:
    text = value if isinstance(value, str) else ""
    return bool(_NAMES_SECRET.search(about) or _LOOKS_SECRET.fullmatch(text))


def dotted(path: tuple[str, ...]) -> str:
    """Return the path of a key as TOML writes it; the top level is `(top)`."""
    return ".".join(p if re.fullmatch(r"[\w-]+", p) else f'"{p}"' for p in path) or "(top)"


def _from_text(text: str, key: SettingKey) -> object:
    text.encode()  # The environment may hold bytes that are not text.
    if get_origin(key.bare) in {tuple, list}:
        listed = text.strip()
        if listed.startswith("["):
            value = tomllib.loads(f"v = {listed}")["v"]
        else:
            value = [part.strip() for part in listed.split(",") if part.strip()]
        return msgspec.convert(value, key.type)
    if key.bare is str:
        return msgspec.convert(text, key.type)
    # msgspec converts "true" and "false" (and 1, 0), but not in any letter case beside "auto".
    words = {"true": True, "false": False}
    return msgspec.convert(words.get(text.strip().lower(), text.strip()), key.type, strict=False)


def doc(text: str, **bounds: float) -> Meta:
    """Document a key: its meaning, with the unit, and the bounds of its value."""
    fields: dict[str, Any] = {"description": text, **bounds}
    return Meta(**fields)


Enabled = Literal["auto"] | bool
"""Whether a part of Joulebook is used; `AUTO` explains the values."""

AUTO = '"auto": used where this machine has it; true: required; false: off.'


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the configuration file."""
