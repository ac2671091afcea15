r"""LaTeX: a paragraph and tables that compile in any class, with no package loaded.

Put it into the appendix with `\input`. Wide cells are set ragged in a column of their own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from joulebook.core.sanitize import one_line
from joulebook.lab.report.document import RUN_COLUMNS, Document, StatementSection, document
from joulebook.lab.report.model import Statement

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
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

_SYMBOL = re.compile(r"\bE\\_(gpu|host|idle|it|fac|best|sweep|project)\b")

_TOGETHER = 2
"""Sections in a table: all of them would be longer than a page."""

# Between these a Latin font would put a dash or a quote.
_LIGATURE = re.compile(r"(?<=-)(?=-)|(?<=,)(?=,)|(?<=')(?=')")

_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r",
    "\u030c": "v", "\u0327": "c", "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u030b": "H",
}  # fmt: skip


def render(statement: Statement) -> str:
    """Return the statement in LaTeX."""
    return "\n".join(_lines(document(statement))) + "\n"


def escape(text: str, most: int = 1_000) -> str:
    """Text that LaTeX sets as it stands: no command, no macro, no ligature, in ASCII.

    Letters with accents are composed; what Latin fonts lack is set as its code point.
    """
    plain = "".join(map(_letter, one_line(text, most)))
    plain = _LIGATURE.sub("{}", plain)
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
    return f"[U+{ord(character):04X}]".replace("[", "{[}").replace("]", "{]}")


def _lines(doc: Document) -> Iterator[str]:
    yield "% " + _comment(doc.title)
    yield "% " + _comment(doc.subtitle)
    yield r"\paragraph{Energy, cost and carbon footprint.}"
    for sentence in doc.paragraph:
        yield escape(sentence)
    yield ""
    for start in range(0, len(doc.sections), _TOGETHER):
        yield from _figures(doc, doc.sections[start : start + _TOGETHER])
    if doc.runs:
        yield ""
        yield from _runs(doc)
    yield ""
    yield r"\noindent{\footnotesize " + " ".join(map(escape, doc.notes)) + "}"


def _figures(doc: Document, sections: Sequence[StatementSection]) -> Iterator[str]:
    yield r"\begin{table}[htbp]"
    yield r"\centering\footnotesize"
    about = ", ".join(section.title for section in sections)
    yield r"\caption{" + escape(f"{doc.title}: {about}") + "}"
    yield r"\begin{tabular}{@{}p{0.24\linewidth}p{0.36\linewidth}p{0.33\linewidth}@{}}"
    yield r"\hline"
    for section in sections:
        yield r"\multicolumn{3}{@{}l}{\textbf{" + escape(section.title) + r"}}\tabularnewline"
        for row in section.rows:
            indent = r"\quad " if row.label.startswith(" ") else ""
            cells = (indent + escape(row.label), escape(row.value), escape(row.note))
            yield " & ".join(r"\raggedright " + cell for cell in cells) + r"\tabularnewline"
        yield r"\hline"
    yield r"\end{tabular}"
    yield r"\end{table}"
    yield ""


def _runs(doc: Document) -> Iterator[str]:
    yield r"\begin{table}[htbp]"
    yield r"\centering\scriptsize\setlength{\tabcolsep}{3pt}"
    yield r"\caption{Runs: " + escape(doc.title) + "}"
    yield r"\begin{tabular}{@{}lp{0.11\linewidth}p{0.12\linewidth}" + "r" * 5 + "@{}}"
    yield r"\hline"
    yield " & ".join(map(escape, RUN_COLUMNS)) + r"\tabularnewline"
    yield r"\hline"
    for run in doc.runs:
        cells = [escape(cell, 40) for cell in run]
        cells[1:3] = [r"\raggedright " + cell for cell in cells[1:3]]
        yield " & ".join(cells) + r"\tabularnewline"
    yield r"\hline"
    yield r"\end{tabular}"
    yield r"\end{table}"


def _comment(text: str) -> str:
    return one_line(text, 300).encode("ascii", "replace").decode()
