"""Generate from the command line what describes it, for `tools/generate.py`.

A manual page (man(7) of groff), a page of the documentation, and completion for three shells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import click
from click.shell_completion import get_completion_class

from joulebook import cli
from joulebook.config import Config
from joulebook.config.describe import toml

SHELLS = {
    "bash": "packaging/completion/joulebook.bash",
    "zsh": "packaging/completion/_joulebook",
    "fish": "packaging/completion/joulebook.fish",
}

_EVERYWHERE = {"help", "config"}
"""The options of every command: named once."""


class _Entry(NamedTuple):
    """A command: how it is called, what it does, and its options by heading."""

    name: str
    usage: str
    text: str
    options: dict[str, list[tuple[str, str]]]
    epilog: str


def _entries(listed: dict[str, cli.Verb]) -> Iterator[_Entry]:
    top = click.Context(cli.top, info_name="joulebook")
    for name in listed:
        command = cli.top.get_command(top, name)
        assert command is not None
        ctx = click.Context(command, top, info_name=name)
        options: dict[str, list[tuple[str, str]]] = {}
        for each in command.get_params(ctx):
            record = each.get_help_record(ctx)
            if record and each.name not in _EVERYWHERE:
                options.setdefault(getattr(each, "heading", "Arguments"), []).append(record)
        usage = " ".join(["joulebook", name, *command.collect_usage_pieces(ctx)])
        yield _Entry(
            name, usage, _plain(command.help), dict(_ordered(options)), _plain(command.epilog)
        )


def _ordered(
    options: dict[str, list[tuple[str, str]]],
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    yield from sorted(
        options.items(), key=lambda each: (each[0] != "Arguments", each[0] == "Options")
    )


def _plain(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip()


def markdown() -> str:
    """Return the page of commands."""
    lines = [
        "<!-- Generated from the command line by `make docs`; do not edit. -->",
        "",
        "# Commands",
        "",
        "`--help` of a command and the manual page, `joulebook(1)`, have the same. Every command",
        "takes `--config FILE`.",
    ]
    for heading, listed in cli.GROUPS.items():
        lines += ["", f"## {heading.capitalize()}"]
        for each in _entries(listed):
            lines += ["", f"### {each.name}", "", "```text", each.usage, "```", "", each.text]
            for title, records in each.options.items():
                lines += ["", f"| {title} | |", "| --- | --- |"]
                lines += [f"| `{_cell(name)}` | {_cell(_marked(said))} |" for name, said in records]
            lines += ["", _marked(each.epilog)] if each.epilog else []
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """Return the page of every key of the configuration, with its default."""
    return (
        "<!-- Generated from exporter/joulebook/config/ by `make docs`; do not edit. -->\n\n"
        "# Configuration\n\n"
        "One TOML file, `/etc/joulebook/joulebook.toml` or `--config FILE`. Every key has a\n"
        "default, which is shown here; unknown keys are errors. In the environment,\n"
        "`JOULEBOOK_SERVER_LISTEN` is `listen` in `[server]`, and so on. `joulebook config`\n"
        "prints what is in force.\n\n"
        f"```toml\n{toml(Config())}```\n"
    )


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _marked(text: str) -> str:
    """Return text in which no character is Markdown's but the backquotes that it has."""
    parts = text.split("`")
    return "`".join(
        part if index % 2 else re.sub(r"([*_<\[\]])", r"\\\1", part)
        for index, part in enumerate(parts)
    )


def manual() -> str:
    """Return the manual page joulebook(1)."""
    lines = [
        r".\" Generated from the command line by `make docs`; do not edit.",
        ".TH JOULEBOOK 1",
        ".SH NAME",
        r"joulebook \- book the energy of GPUs to the experiment that consumed it",
        ".SH SYNOPSIS",
        ".B joulebook",
        _groff("COMMAND [--config FILE] [ARGUMENTS]..."),
        ".SH DESCRIPTION",
        _groff(_plain(cli.top.help)),
        _groff(_plain(cli.top.epilog)),
    ]
    for heading, listed in cli.GROUPS.items():
        lines.append(f".SH {heading.upper()}")
        for each in _entries(listed):
            lines += [f".SS {_groff(each.usage)}", _groff(each.text)]
            for title, records in each.options.items():
                lines += [".PP", rf".I {_groff(title)}"]
                for name, said in records:
                    lines += [".TP", rf".B {_groff(name)}", _groff(said) or r"\&"]
            lines += [".PP", _groff(each.epilog)] if each.epilog else []
    lines += [
        ".SH FILES",
        ".TP",
        ".I /etc/joulebook/joulebook.toml",
        _groff("The configuration; `joulebook config` explains every key."),
        ".TP",
        ".I /var/lib/joulebook/ledger.db",
        "The ledger of the node.",
        ".SH ENVIRONMENT",
        _groff(
            "JOULEBOOK_SERVER_LISTEN and the like override `listen` in `[server]` and the like."
        ),
    ]
    return "\n".join(lines) + "\n"


def _groff(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text[:1] in {".", "'"} else text


def completion() -> dict[str, str]:
    """Return the script of each shell that completes commands and options."""
    found = {}
    for shell, path in SHELLS.items():
        kind = get_completion_class(shell)
        assert kind is not None
        text = kind(cli.top, {}, "joulebook", "_JOULEBOOK_COMPLETE").source()
        found[path] = f"{text.strip()}\n"
    return found
