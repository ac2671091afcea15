"""What is written is read by what will read it: LaTeX compiled, the page in a real browser."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.unit.lab.report.family import RATES_TOML, write_family
from tests.unit.lab.report.hostile import HOSTILE
from tests.unit.lab.report.test_formats import made

from joulebook.cli import main
from joulebook.lab.report.formats import html, latex

DOCUMENT = r"""\documentclass[%s]{article}
\pdfcompresslevel=0 \pdfobjcompresslevel=0
\begin{document}
\input{statement}
\end{document}
"""


def compiled(
    directory: Path, statement: str, options: str = "", more: str = ""
) -> tuple[str, bytes]:
    """Compile as an author would, stopping at the first error; the log and the PDF."""
    directory.mkdir(exist_ok=True)
    (directory / "statement.tex").write_text(statement)
    (directory / "paper.tex").write_text(DOCUMENT % options)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper"],
        cwd=directory,
        capture_output=True,
        timeout=60,
        check=False,
    )
    log = (directory / "paper.log").read_text(encoding="latin-1")
    assert done.returncode == 0, log[-3000:]
    return log, (directory / "paper.pdf").read_bytes()


@pytest.mark.parametrize("options", ["", "twocolumn", "a4paper,11pt"])
def test_the_statement_compiles_without_a_package(tmp_path: Path, options: str) -> None:
    log, pdf = compiled(tmp_path, latex.render(made()), options)
    assert "Float too large" not in log
    if options != "twocolumn":
        assert "Overfull" not in log
    text = b"".join(re.findall(rb"\(((?:[^()\\]|\\.)*)\)", pdf))
    for figure in (b"30.00", b"10.50", b"40.00"):
        assert figure in text


@pytest.mark.parametrize("options", ["", "twocolumn"])
@pytest.mark.parametrize("name", ["", "Größe, čaj, Łódź, 訓練"])
def test_the_short_form_fits_a_column(tmp_path: Path, options: str, name: str) -> None:
    log, _ = compiled(tmp_path, latex.render(made(name), "short"), options)
    assert "Overfull" not in log
    assert "Missing character" not in log


@pytest.mark.parametrize("length", ["short", "full"])
@pytest.mark.parametrize("options", ["", "twocolumn"])
def test_the_table_of_stages_fits(tmp_path: Path, options: str, length: str) -> None:
    write_family(tmp_path / "ledger.db")
    config = tmp_path / "joulebook.toml"
    config.write_text(f'[ledger]\npath = "{tmp_path}/ledger.db"\n{RATES_TOML}')
    out = tmp_path / "statement.tex"
    wanted = ["--experiment", "family", "--experiment", "family-dev", "--project", "Family 7B"]
    written = ["--format", "latex", "--length", length, "--output", str(out)]
    assert main(["--config", str(config), "report", *wanted, *written]) == 0
    log, pdf = compiled(tmp_path / "paper", out.read_text(), options)
    assert "Overfull" not in log
    assert b"10,111" in b"".join(re.findall(rb"\(((?:[^()\\]|\\.)*)\)", pdf))


def test_no_name_is_a_command(tmp_path: Path) -> None:
    for n, name in enumerate(HOSTILE):
        log, _ = compiled(tmp_path / str(n), latex.render(made(name)))
        # It was set, not read or run.
        assert "/etc/passwd" not in re.sub(r"(?s)Overfull.*?\n\n", "", log), name
        assert "runsystem" not in log, name


def test_every_letter_that_is_composed_is_there(tmp_path: Path) -> None:
    letters = "".join(map(chr, (*range(0x20, 0x7F), *range(0xA0, 0x250), 0x4E2D, 0x1F525)))
    lines = "\n\n".join(latex.escape(letter) for letter in letters)
    log, _ = compiled(tmp_path, latex.render(made()) + lines)
    assert "Missing character" not in log


@pytest.mark.nightly
def test_names_of_any_script_are_set_by_an_engine_that_knows_them(tmp_path: Path) -> None:
    package = [
        "apt-get",
        "install",
        "-yq",
        "--no-install-recommends",
        "texlive-luatex",
        "poppler-utils",
    ]
    subprocess.run(package, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    (tmp_path / "statement.tex").write_text(latex.render(made("Обучение-訓練"), "sentence"))
    (tmp_path / "paper.tex").write_text(
        r"""\documentclass{article}
\usepackage{luaotfload}
\font\sans="[/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf]:mode=node"
\begin{document}\sans \input{statement}\end{document}"""
    )
    for command in (
        ["lualatex", "-interaction=nonstopmode", "-halt-on-error", "paper"],
        ["pdftotext", "paper.pdf"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    # The font has no Chinese.
    text = " ".join((tmp_path / "paper.txt").read_text().split())
    assert "Обучение-[U+8A13][U+7DF4]" in text


def test_a_hostile_page_does_nothing_in_a_browser(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(html.render(made("".join(HOSTILE[:3]))), encoding="utf-8")
    done = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={tmp_path}/profile", page.as_uri()],
        capture_output=True, timeout=100, check=True, text=True,
    )  # fmt: skip
    assert "<script" not in done.stdout
    assert "<img" not in done.stdout
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in done.stdout
    assert "30.00 kWh" in done.stdout


@pytest.mark.parametrize("length", ["short", "full"])
@pytest.mark.parametrize("name", ["", "a-name-of-many-parts_and.no-blanks/" * 3])
def test_the_page_fits_a_phone(tmp_path: Path, name: str, length: str) -> None:
    """390 px wide: nothing to push sideways but the table of runs, and no column of letters."""
    (tmp_path / "page.html").write_text(html.render(made(name), length), encoding="utf-8")
    (tmp_path / "phone.html").write_text(
        """<iframe id=phone src=page.html style="border:0;width:390px;height:800px"></iframe>
        <pre id=seen></pre><script>phone.onload = () => {
          const page = phone.contentDocument, root = page.documentElement
          const cells = [...page.querySelectorAll('table.rows td')]
          const widths = cells.filter(c => c.textContent).map(c => c.getBoundingClientRect().width)
          seen.textContent = [root.scrollWidth <= root.clientWidth, root.scrollHeight,
            Math.round(Math.min(390, ...widths))].join()
        }</script>"""
    )
    done = subprocess.run(
        ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
         "--allow-file-access-from-files", f"--user-data-dir={tmp_path}/profile",
         (tmp_path / "phone.html").as_uri()],
        capture_output=True, timeout=100, check=True, text=True,
    )  # fmt: skip
    found = re.search(r"<pre id=\"seen\">(\w+),(\d+),(\d+)</pre>", done.stdout)
    assert found is not None, done.stdout[-500:]
    assert found[1] == "true", "wider than the phone"
    assert int(found[2]) < 12_000
    assert int(found[3]) > 100
