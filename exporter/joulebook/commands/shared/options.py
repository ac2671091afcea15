"""The options that commands share, their types, and how help lists them."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import click

from joulebook.config import DEFAULT_PATH

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(path_type=Path)

_DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Options(SimpleNamespace):
    """The values of a command's options, by name."""


class Duration(click.ParamType[float, str]):
    """A duration such as `90`, `90s`, `10m`, `2h` or `1d`, in seconds."""

    name = "TIME"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Parse a duration."""
        text = str(value)
        unit = text[-1:] if text[-1:] in _DURATIONS else "s"
        try:
            seconds = float(text.removesuffix(unit)) * _DURATIONS[unit]
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < 1e9:
            self.fail(f"{text!r} is not a duration such as 30s, 10m or 2h", param, ctx)
        return seconds


class BillAction(click.Choice[str]):
    """What to do with a bill; of a month alone, the error says where it goes."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the action."""
        if value[:1].isdecimal():
            self.fail(f"give what to do first: joulebook bill show {value}", param, ctx)
        return super().convert(value, param, ctx)


class Option(click.Option):
    """An option that is listed under a heading in the help."""

    def __init__(self, *args: Any, heading: str = "Options", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


class Command(click.Command):
    """A command whose help groups options under headings.

    For options in `several`, `--NAME A B C` means `--NAME A --NAME B --NAME C`.
    """

    several: tuple[str, ...] = ()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, expanding the options in `several`."""
        spelled: list[str] = []
        current = ""
        for word in args:
            if word.startswith("-"):
                current = word if word in self.several else ""
            elif current and spelled[-1] != current:
                spelled.append(current)
            spelled.append(word)
        return super().parse_args(ctx, spelled)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under their headings; `click` writes the arguments."""
        listed: dict[str, list[tuple[str, str]]] = {}
        for each in self.get_params(ctx):
            record = each.get_help_record(ctx)
            if record is not None and not isinstance(each, click.Argument):
                listed.setdefault(getattr(each, "heading", "Options"), []).append(record)
        for heading in sorted(listed, key=lambda name: name == "Options"):
            with formatter.section(heading):
                formatter.write_dl(listed[heading])


def command(
    epilog: str = "", several: Sequence[str] = ()
) -> Callable[[Callable[[Options], int]], Command]:
    """Turn a function into a command with `--config`; its docstring is the help."""

    def made(function: Callable[[Options], int]) -> Command:
        @functools.wraps(function)
        def called(**given: object) -> int:
            # What was imported so far is for good: no collection need look through it.
            gc.freeze()
            gc.enable()
            return function(Options(**given))

        found = click.command(cls=Command, epilog=epilog or None)(_config(called))
        found.several = tuple(several)
        return found

    return made


def option(*names: str, heading: str = "Options", **given: Any) -> Callable[[F], F]:
    """Return `click.option` under a heading."""
    return click.option(*names, cls=Option, heading=heading, **given)


argument = click.argument

AT_LAB: dict[str, Any] = {"metavar": "[URL]", "is_flag": False, "flag_value": ""}
"""`--lab`, which may go without the URL of the configuration."""


def all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Combine several options into one decorator."""

    def added(function: F) -> F:
        for each in reversed(options):
            function = each(function)
        return function

    return added


CONFIG_HELP = f"Configuration file (default: {DEFAULT_PATH}, if it exists)."


def _config(function: F) -> F:
    """Add `--config` to a command; one given before the command is the default."""

    def chosen(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        return value if value is not None else ctx.find_root().params.get("config")

    return option("--config", type=FILE, metavar="FILE", callback=chosen, help=CONFIG_HELP)(
        function
    )
