"""Results from outside: what is taken, and what is refused with file, line, column and value."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from joulebook.core.report.leaderboard import Unit
from joulebook.errors import ConfigError
from joulebook.lab.leaderboard.model_card import read_card
from joulebook.lab.leaderboard.results import metric_of, pick, read_csv

HEAD = "experiment,run,metric,value"


def written(tmp_path: Path, text: str, name: str = "results.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_file_is_read_exactly(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        f"{HEAD},kwh,cost,currency,gpu,flops\n"
        "bert, 101 ,accuracy,92.10,30,6.5,USD,NVIDIA H100,1e21\n"
        '"a, ""quoted"" name",,accuracy,0.1,,,,,\n',
    )
    first, second = read_csv(path)
    assert (first.run, first.value, first.energy_uj) == ("101", Fraction(921, 10), 108 * 10**12)
    assert (first.cost_nano, first.gpu, first.flops) == (
        {"USD": 6_500_000_000},
        "NVIDIA H100",
        1e21,
    )
    assert (second.experiment, second.value) == ('a, "quoted" name', Fraction(1, 10))
    assert second.energy_uj is None and not second.cost_nano


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("experiment,run,value\na,b,1\n", "no column metric: expected experiment,run,metric,value"),
        (f"{HEAD},joules\na,b,m,1,2\n", "unknown column 'joules'"),
        (f"{HEAD}\na,b,m\n", "line 2: expected 4 fields"),
        (f"{HEAD}\na,b,m,1,2\n", "line 2: expected 4 fields"),
        (f"{HEAD}\na,b,m,many\n", "line 2, value: 'many': expected a finite number, such as 92.5"),
        (f"{HEAD}\na,b,m,1/3\n", "'1/3': expected a finite number"),
        (f"{HEAD}\na,b,m,1e999999\n", "line 2, value"),
        (f"{HEAD}\n,,m,1\n", "line 2: experiment and run are both empty"),
        (f"{HEAD}\na,b,,1\n", "line 2: metric is empty"),
        (f"{HEAD},kwh\na,b,m,1,-3\n", "line 2, kwh: '-3': expected more than 0"),
        (f"{HEAD},cost\na,b,m,1,3\n", "line 2: cost without a currency"),
        (f"{HEAD},started\na,b,m,1,noon\n", "line 2, started: 'noon': expected 2026-01-31T13"),
    ],
)
def test_a_bad_csv_file_says_where(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_csv(path)
    assert str(path) in str(caught.value) and said in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_csv(path)
    path = tmp_path / "latin.csv"
    path.write_bytes(b"experiment,run,metric,value\n\xe9,b,m,1\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 28"):
        read_csv(path)


def test_which_metric_must_be_clear(tmp_path: Path) -> None:
    results = read_csv(written(tmp_path, f"{HEAD}\na,1,acc,1\na,1,loss,2\n"))
    with pytest.raises(ConfigError, match="choose one with --metric acc or loss"):
        pick(results, "")
    assert [r.value for r in pick(results, "loss")] == [2]
    with pytest.raises(ConfigError, match="the results have acc, loss"):
        pick(results, "f1")
    twice = read_csv(written(tmp_path, f"{HEAD}\na,1,acc,1\na,1,acc,2\n"))
    with pytest.raises(ConfigError, match=r"line 3: a / 1 already has a value: .*line 2"):
        pick(twice, "")


@pytest.mark.parametrize(
    ("name", "values", "higher", "unit"),
    [
        ("accuracy", ("0.9", "0.95"), True, Unit.RATIO),
        ("val/top-1_accuracy", ("90", "95.5"), True, Unit.PERCENT),
        ("test_wer", ("35", "40"), False, Unit.PERCENT),
        ("eval_loss", ("0.3", "2.9"), False, Unit.PLAIN),
        ("Perplexity", ("18", "25"), False, Unit.PLAIN),
        ("accuracy on ImageNet-1k", ("0.7",), True, Unit.RATIO),
        ("map", ("0", "0.4"), True, Unit.RATIO),
    ],
)
def test_what_a_metric_is_taken_to_be(
    name: str, values: tuple[str, ...], higher: bool, unit: Unit
) -> None:
    metric, notes = metric_of(name, [Fraction(v) for v in values])
    assert (metric.higher, metric.unit) == (higher, unit)
    assert len(notes) == 2, "what was taken for granted is said"


def test_what_is_told_is_not_guessed() -> None:
    metric, notes = metric_of("goodness", [Fraction(5)], better="lower", unit="percent")
    assert (metric.higher, metric.unit, notes) == (False, Unit.PERCENT, ())


def test_what_cannot_be_known_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="use --better higher or --better lower"):
        metric_of("goodness", [Fraction(1)])
    with pytest.raises(ConfigError, match=r"0\.92 looks like a ratio and 91 like a percentage"):
        metric_of("accuracy", [Fraction("0.92"), Fraction(91)])


CARD = """---
license: apache-2.0
model-index:
- name: my-bert
  results:
  - task: {type: text-classification}
    dataset: {name: SST-2, type: glue}
    metrics:
    - {type: accuracy, value: 0.925}
    - {type: f1, value: "0.91"}
    - {type: confusion_matrix, value: {a: 1}}
---
# My model
"""


def test_the_model_index_of_a_card(tmp_path: Path) -> None:
    found = read_card(written(tmp_path, CARD, "README.md"))
    assert [(r.experiment, r.metric, r.value) for r in found] == [
        ("my-bert", "accuracy on SST-2", Fraction("0.925")),
        ("my-bert", "f1 on SST-2", Fraction("0.91")),
    ]
    alone = written(tmp_path, CARD.split("---")[1], "index.yaml")
    assert [r.value for r in read_card(alone)] == [r.value for r in found]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# only text\n", "no YAML front matter between two lines of ---"),
        ("---\na: [\n---\n", "not YAML"),
        ("---\nlicense: mit\n---\n", "no model-index"),
        ("---\nmodel-index: {}\n---\n", "model-index: expected a list"),
        ("---\nmodel-index:\n- results: []\n---\n", "model-index[0] has no name"),
        ("---\nmodel-index:\n- {name: a, results: [{}]}\n---\n", "results[0] has no metrics"),
        ("---\nmodel-index:\n- {name: a, results: []}\n---\n", "no metric with a value"),
        (
            "---\nmodel-index:\n- name: a\n  results:\n  - metrics: [{type: acc, value: x}]\n---\n",
            "model-index[0].results[0].metrics[0].value: 'x': expected a finite number",
        ),
        ("---\nx: !!python/object/apply:os.system ['true']\n---\n", "not YAML"),
        ("---\n" + "[" * 1500 + "\n---\n", "not YAML"),
    ],
)
def test_a_bad_card_says_where(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text, "README.md")
    with pytest.raises(ConfigError) as caught:
        read_card(path)
    assert str(path) in str(caught.value) and said in str(caught.value)
