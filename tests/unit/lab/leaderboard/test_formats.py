"""What a leaderboard looks like: the worked example to the digit, and names that attack."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import xml.etree.ElementTree as ET
import zlib
from fractions import Fraction
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from joulebook.cli import main
from joulebook.core.report.leaderboard import ComparedMetric, Entrant, Join, Unit, boards
from joulebook.lab.leaderboard import demo
from joulebook.lab.leaderboard.formats import Leaderboard, as_csv, as_json, html, markdown, png, svg
from joulebook.lab.leaderboard.plot import MOST_PANELS, Text, draw
from joulebook.units import UJ_PER_KWH

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</text><script>1</script>",
    "=HYPERLINK(\"http://x\")",
    "@SUM(1)",
    "| a | b |\n|---|---|",
    "[click](javascript:alert(1)) ![x](http://x)",
    "`code` **bold** <b>",
    "\x1b[2J\x1b]0;title\x07",
    "\u202eevil",
    "]]>&amp;&#x27;",
    "$x^2$",
)  # fmt: skip

WORKED = """experiment,run,metric,value,kwh,cost,currency,gpu
A,a,accuracy,90.0,10,2,USD,NVIDIA H100
B,b,accuracy,92.0,30,6,USD,NVIDIA H100
C,c,accuracy,92.5,130,26,USD,NVIDIA H100
D,d,accuracy,91.0,40,8,USD,NVIDIA H100
"""


def hostile_board() -> Leaderboard:
    metric = ComparedMetric(HOSTILE[0], True, Unit.PERCENT)
    entrants = [
        Entrant(
            name, Fraction(80 + n), (10 + n) * UJ_PER_KWH, {"USD": 10**9 * n}, HOSTILE[1],
            join=Join.INFERRED, hedge=HOSTILE[(n + 1) % len(HOSTILE)],
        )
        for n, name in enumerate(HOSTILE)
    ]  # fmt: skip
    worse = [Entrant("x", Fraction(1), 10**15, gpu=HOSTILE[1])]
    return Leaderboard(tuple(boards(HOSTILE[2], metric, entrants + worse)), notes=HOSTILE)


@pytest.fixture
def worked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The worked example as a file; a ledger without jobs beside it."""
    from joulebook.clock import Anchor
    from joulebook.core.ledger.state import Books, Entry
    from joulebook.ledger.sqlite import SqliteStore

    path = tmp_path / "results.csv"
    path.write_text(WORKED)
    ledger = tmp_path / "ledger.db"
    store = SqliteStore(ledger, allow_volatile=True)
    store.commit(*(store.load()[0], Books(last_ns=1), Entry(), Anchor("boot", 0, 1)))
    store.close()
    monkeypatch.setenv("JOULEBOOK_LEDGER_PATH", str(ledger))
    monkeypatch.setenv("COLUMNS", "120")
    return path


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    assert main(["leaderboard", *map(str, args)]) == 0
    return capsys.readouterr().out


def test_the_worked_example_in_every_format(
    worked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(run(capsys, worked, "--json"))
    (board,) = found["boards"]
    by_name = {each["name"]: each for each in board["results"]}
    assert [by_name[f"{n} / {n.lower()}"]["kwh_per_point"] for n in "ABC"] == [None, 10.0, 200.0]
    assert by_name["C / c"]["cost_per_point"] == {"USD": 40.0}
    assert by_name["D / d"]["dominated_by"] == "B / b" and not by_name["D / d"]["on_front"]
    assert board["gpu"] == "NVIDIA H100" and board["metric"]["unit"] == "percent"

    text = run(capsys, worked)
    assert re.search(r"Result +accuracy +Energy \(kWh\) +Per point \(kWh\)", text)
    assert re.search(r"C / c +92\.5 % +130 +200 +26\.00 USD +40\.00 USD", text)
    assert re.search(r"D / d +91 % +40 +- +8\.00 USD +- +1 +dominated by B / b", text)
    assert "as stated in the authors' files, not measured here" in text
    assert "accuracy: in percent: values are above 1" in text
    assert "| C / c | 92.5 % | 130 | 200 | 26.00 USD | 40.00 USD |" in run(
        capsys, worked, "--format", "markdown"
    )
    rows = list(csv.DictReader(io.StringIO(run(capsys, worked, "--format", "csv"))))
    assert {row["result"]: row["kwh_per_point"] for row in rows} == {
        "A / a": "", "B / b": "10.0", "C / c": "200.0", "D / d": "",
    }  # fmt: skip
    assert "<td class=r>200</td>" in run(capsys, worked, "--format", "html")


def test_no_co2e_is_a_figure_and_unknown_co2e_is_none() -> None:
    metric = ComparedMetric("accuracy", True, Unit.PERCENT)
    clean = Entrant("wind", Fraction(90), UJ_PER_KWH, co2e_ug=0)
    found = Leaderboard(tuple(boards("b", metric, [clean, Entrant("x", Fraction(80), 1)])))
    (board,) = as_json(found)["boards"]
    assert {each["name"]: each["co2e_kg"] for each in board["results"]} == {"wind": 0.0, "x": None}
    rows = csv.DictReader(io.StringIO(as_csv(found)))
    assert {row["result"]: row["co2e_kg"] for row in rows} == {"wind": "0.0", "x": ""}


def test_expected_best_of_a_sweep_is_shown(
    worked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"sweep,{n},accuracy,{v},10,,,X" for n, v in enumerate((0.92, 0.88, 0.94, 0.90))]
    worked.write_text("\n".join([WORKED.splitlines()[0], *lines]))
    (board,) = json.loads(run(capsys, worked, "--json"))["boards"]
    assert [(e["runs"], e["value"], e["energy_kwh"]) for e in board["expected_best"]["sweep"]] == [
        (1, 0.91, 10.0),
        (2, 0.9225, 20.0),
        (4, pytest.approx(0.93234, abs=5e-6), 40.0),
    ]
    assert "Best result expected from this many runs" in run(capsys, worked)


def test_a_metric_that_nobody_knows_is_asked_for(
    worked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worked.write_text(WORKED.replace("accuracy", "goodness"))
    assert main(["leaderboard", str(worked)]) == 2
    assert "use --better higher or --better lower" in capsys.readouterr().err
    text = run(capsys, worked, "--better", "lower", "--unit", "plain")
    assert "goodness (lower is better)" in text
    assert main(["leaderboard"]) == 2
    assert "give a file (CSV or a model card), --mlflow or --demo" in capsys.readouterr().err


def test_an_experiment_without_results_is_refused_with_those_that_there_are(
    worked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"{name},1,accuracy,0.9,10,,,X" for name in ("bert-base", "gpt-2")]
    worked.write_text("\n".join([WORKED.splitlines()[0], *lines]))
    for names, said in (
        (
            ["bert-bsae"],
            "--experiment bert-bsae: no result belongs to it; known: bert-base (of 2)",
        ),
        (["bert-base", "x\x1b"], "no result belongs to it; known: bert-base, gpt-2\n"),
    ):
        asked = [part for name in names for part in ("--experiment", name)]
        assert main(["leaderboard", str(worked), *asked]) == 2
        reported = capsys.readouterr().err
        assert said in reported and "\x1b" not in reported


class Page(HTMLParser):
    """The elements and attributes that a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_hostile_names_inject_nothing_into_html_and_svg() -> None:
    found = hostile_board()
    drawn = svg(draw(found.boards))
    page = Page(html(found, drawn))
    assert page.tags == {
        "html", "meta", "title", "style", "h1", "h2", "table", "thead", "tbody", "tr", "th", "td",
        "ul", "li", "img",
    }  # fmt: skip
    assert page.attributes == {
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "alt",
        "src",
    }
    tree = ET.fromstring(drawn)
    space = "{http://www.w3.org/2000/svg}"
    assert {e.tag.removeprefix(space) for e in tree.iter()} == {
        "svg", "title", "style", "rect", "polyline", "polygon", "circle", "text",
    }  # fmt: skip
    assert not [a for e in tree.iter() for a in e.attrib if a.startswith(("on", "href"))]
    assert "\x1b" not in drawn and "\u202e" not in drawn


def test_hostile_names_inject_nothing_into_markdown_csv_and_json() -> None:
    found = hostile_board()
    lines = markdown(found).splitlines()
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}
    assert widths <= {11}, "every row has the columns of its table"
    for line in lines:
        # Whatever could begin a tag, a link, an image or code has a backslash before it (an empty
        # comment keeps addresses from becoming links).
        assert not re.search(r"(?<!\\)[<\[`]", line.replace("<!-- -->", "")), line
    rows = list(csv.reader(io.StringIO(as_csv(found))))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert not [cell for row in rows for cell in row if cell[:1] in {"=", "@", "+"}]
    assert json.loads(json.dumps(as_json(found)))["notes"] == list(HOSTILE)


def test_the_terminal_gets_no_escapes(worked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worked.write_text(WORKED + "\x1b[2Jevil\x07,\u202ex,accuracy,50,1,1,USD,NVIDIA H100\n")
    text = run(capsys, worked)
    assert "evil" in text and not {"\x1b", "\x07", "\u202e"} & set(text)


def test_the_demo_is_six_tasks_and_no_board_mixes_gpus() -> None:
    found = demo.boards()
    assert len({b.title for b in found}) == 6 and len(found) == 12
    for board in found:
        assert board.gpu in {"NVIDIA V100", "NVIDIA A40"}
        assert {e.gpu for e in board.entrants} == {board.gpu}
        assert len(board.front) >= 3 and board.dominated
        assert all(e.runs >= 2 for e in board.entrants)
    assert {b.gpu for b in demo.boards("a40")} == {"NVIDIA A40"}


def test_a_figure_of_the_demo_by_hand(repository: Path) -> None:
    # Batch 128 of ShuffleNet on a V100 reaches 60 %: 17.15 s an epoch at the mean watts of its
    # largest power limit, and the mean epoch of its five runs, from the files as published.
    import gzip

    def rows(name: str) -> list[dict[str, str]]:
        packed = repository / f"exporter/joulebook/data/results/{name}.csv.gz"
        return list(csv.DictReader(gzip.decompress(packed.read_bytes()).decode().splitlines()))

    epochs = [
        float(r["target_epoch"])
        for r in rows("zeus_summary_train")
        if (r["dataset"], r["batch_size"], r["target_metric"]) == ("cifar100", "128", "0.6")
    ]
    (power,) = [
        r
        for r in rows("zeus_summary_power_v100")
        if (r["dataset"], r["batch_size"], r["power_limit"]) == ("cifar100", "128", "250")
        and r["optimizer"] == "adadelta"
    ]
    joules = sum(epochs) / 5 * float(power["time_per_epoch"]) * float(power["average_power"])
    board = demo.boards("v100")[0]
    (entrant,) = [e for e in board.entrants if e.name == "batch 128" and e.value == Fraction("0.6")]
    assert len(epochs) == 5 and entrant.energy_uj == pytest.approx(joules * 1e6, rel=1e-9)


def test_the_plot_in_both_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("plot.svg", "plot.png"):
        run(capsys, "--demo", "--gpu", "v100", "--plot", tmp_path / name)
    ET.fromstring((tmp_path / "plot.svg").read_text())
    raw = (tmp_path / "plot.png").read_bytes()
    width, height = struct.unpack(">II", raw[16:24])
    assert raw[:8] == b"\x89PNG\r\n\x1a\n" and (width, height) == (2400, 1200)
    assert zlib.crc32(raw[12:29]) == struct.unpack(">I", raw[29:33])[0]
    for bad, said in (
        ("plot.jpg", "expected a name ending in .svg or .png"),
        ("no/plot.svg", "No such file"),
    ):
        assert main(["leaderboard", "--demo", "--plot", str(tmp_path / bad)]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("least_wh", [1, 18, 182, 950, 182_000])
def test_labels_of_the_axis_do_not_touch(least_wh: int) -> None:
    reach = [Entrant("a", Fraction(1), least_wh * UJ_PER_KWH // 1000),
             Entrant("b", Fraction(2), 10 * least_wh * UJ_PER_KWH // 3000)]  # fmt: skip
    picture = draw(boards("", ComparedMetric("m"), reach))
    labels = sorted(
        (shape.at[0], shape.text)
        for shape in picture.shapes
        if isinstance(shape, Text) and shape.text.endswith("Wh")
    )
    assert len(labels) >= 2
    for (left, before), (right, after) in pairwise(labels):
        assert right - left >= 6.6 * (len(before) + len(after)) / 2 + 8


def test_a_plot_of_anything_can_be_drawn() -> None:
    one = [Entrant("only", Fraction(5), 0)]
    same = [Entrant(str(n), Fraction(0), UJ_PER_KWH) for n in range(3)]
    many = [Entrant(str(n), Fraction(n, 7), 10 ** (n % 18), gpu=str(n % 40)) for n in range(400)]
    wide = [
        Entrant("x" * 500 + "漢" * 50, Fraction(-(10**12)), 1),
        Entrant("y", Fraction(10**12), 9),
    ]
    for entrants in (one, same, many, wide):
        for higher in (True, False):
            picture = draw(boards("", ComparedMetric("m", higher), entrants))
            assert picture.width * picture.height <= 400 * 300 * (MOST_PANELS + 3)
            ET.fromstring(svg(picture))
        png(picture, dark=entrants is many)
