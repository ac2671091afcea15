r"""LaTeX: a paragraph and tables that compile in any class, with no package loaded.

Put it into the appendix with `\input`. Wide cells are set ragged in a column of their own.
"""

from __future__ import annotations

import re
import unicodedata

from joulebook.core.sanitize import one_line
from joulebook.lab.report.document import document
from joulebook.lab.report.formats.templates import LATEX, template
from joulebook.lab.report.model import Statement

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    # Names of settings have no other place to break a line.
    "_": r"\_\allowbreak{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # Quotes of their own are not in the fonts of every encoding.
    '"': r"\char34{}",
    "`": r"\char96{}",
    "[": "{[}",
    "]": "{]}",
    "\u00b1": r"$\pm$",
    "\u00d7": r"$\times$",
    "\u2026": r"\ldots{}",
    "\u00df": r"\ss{}",
    "\u00e6": r"\ae{}",
    "\u00c6": r"\AE{}",
    "\u00f8": r"\o{}",
    "\u00d8": r"\O{}",
    "\u0142": r"\l{}",
    "\u0141": r"\L{}",
    "\u0153": r"\oe{}",
    "\u0131": r"\i{}",
}

_SYMBOL = re.compile(r"\bE\\_\\allowbreak\{\}(gpu|host|idle|it|fac|best|sweep|project)\b")

# Between these a Latin font would put a dash or a quote.
_LIGATURE = re.compile(r"(?<=-)(?=-)|(?<=,)(?=,)|(?<=')(?=')")

_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r",
    "\u030c": "v", "\u0327": "c", "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u030b": "H",
}  # fmt: skip


def render(statement: Statement, length: str = "full") -> str:
    """Return the statement in LaTeX."""
    page = template("statement.tex.j2", escape, **LATEX)
    return page.render(doc=document(statement), length=length).rstrip("\n") + "\n"


def escape(text: str, most: int = 1_000) -> str:
    """Text that LaTeX sets as it stands: no command, no macro, no ligature, in ASCII.

    Letters with accents are composed. Any other is set by LuaLaTeX and XeLaTeX, where the font of
    the place has it; else as its code point.
    """
    plain = "".join(map(_letter, one_line(text, most)))
    plain = _LIGATURE.sub("{}", plain).replace(r" \%", r"~\%")
    plain = _SYMBOL.sub(r"$E_{\\mathrm{\1}}$", plain)
    return plain.replace("CO2e", r"CO$_2$e")


def _letter(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isascii():
        return character if character.isprintable() else "?{}"
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in _ACCENTS:
        return f"\\{_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return f"\\joulebookletter{{{ord(character)}}}{{{ord(character):04X}}}"
