"""Names that would take over a terminal, a page, a paper, a model card or a spreadsheet."""

from __future__ import annotations

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='x",
    "\\input{/etc/passwd}\\write18{id}",
    "}\\end{document}%",
    "$\\def\\x{}$ #1 ^^41 ~ _ & % {",
    "x\nco2_eq_emissions:\n  emissions: 0",
    "---\nlicense: mit\n...",
    "!!python/object/apply:os.system ['id']",
    "{{ 7*7 }} *a: &b",
    "=HYPERLINK(\"http://x\",\"y\")",
    "@SUM(1+1)*cmd|'/C calc'!A0",
    "[click](javascript:alert(1)) ![x](http://x/y) | a | b |",
    "` ``` <http://x> www.x.org https://x.org",
    "\x1b[2J\x1b]0;owned\x07rm -rf",
    "\u202egnp.exe \u2066x\u2069",
    "\x00\x01\x7f\ufeff\uffff",
    "'; DROP TABLE postings; --",
    "\u4e2d\u6587 \u0141\u00f3d\u017a \u00df\u00e6 \U0001f525 \u05d0",
    "a" * 5_000,
)  # fmt: skip
