"""Results of a Hugging Face model card: the `model-index` in the YAML at its head.

https://github.com/huggingface/huggingface_hub, `model_index_to_eval_results`: each model has a
name and results, each result a task, a dataset and metrics with type and value.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from joulebook.errors import ConfigError
from joulebook.lab.leaderboard.results import MAX_NAME_CHARS, Result, finite
from joulebook.untrusted_files import read_named_text

MAX_BYTES = 1024 * 1024
MOST = 1000
"""The most models, results per model and metrics per result that are read."""


def read_card(path: Path) -> list[Result]:
    """Return the results in a model card (`README.md`), or in YAML with a `model-index` in it.

    A card knows no runs: each model is an experiment of its name. Raises `ConfigError`.
    """
    return parse_card(path, read_named_text(path, MAX_BYTES))


def parse_card(path: Path, text: str) -> list[Result]:
    """Return the results in text from a file of that name. Raises `ConfigError`."""
    if path.suffix.lower() not in {".yaml", ".yml"}:
        lines = text.splitlines()
        if not lines or lines[0].strip() != "---" or "---" not in [s.strip() for s in lines[1:]]:
            raise ConfigError(f"{path}: no YAML front matter between two lines of ---")
        end = [s.strip() for s in lines[1:]].index("---") + 1
        text = "\n".join(lines[1:end])
    found = list(_results(path, _parsed(path, text)))
    if not found:
        raise ConfigError(f"{path}: its model-index has no metric with a value")
    return found


def _parsed(path: Path, text: str) -> object:
    import yaml  # noqa: PLC0415 - only cards need it

    class Plain(yaml.SafeLoader):
        """Builds plain values and nothing else, whatever tags are in it; takes no aliases.

        A few hundred bytes of aliases to aliases are gigabytes of values.
        """

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases (*name) are not supported")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Plain)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path}: not YAML: {said}") from None


def _results(path: Path, card: object) -> Iterator[Result]:
    if not isinstance(card, dict) or "model-index" not in card:
        raise ConfigError(f"{path}: no model-index")
    models = _list(path, "model-index", card["model-index"])
    for m, model in enumerate(models):
        key = f"model-index[{m}]"
        name = _of(path, key, model, "name")
        for r, result in enumerate(_list(path, f"{key}.results", _of(path, key, model, "results"))):
            at = f"{key}.results[{r}]"
            split = _split(result)
            metrics = _list(path, f"{at}.metrics", _of(path, at, result, "metrics"))
            for n, metric in enumerate(metrics):
                where = f"{path}: {at}.metrics[{n}]"
                kind = _of(path, f"{at}.metrics[{n}]", metric, "type")
                value = _of(path, f"{at}.metrics[{n}]", metric, "value")
                if isinstance(value, bool) or not isinstance(value, int | float | str):
                    continue  # a confusion matrix, or a dictionary of classes
                number, problem = finite(value, f"{where}.value")
                yield Result(
                    _word(name, f"{path}: {key}.name"),
                    "",
                    f"{_word(kind, f'{where}.type')}{split}"[:MAX_NAME_CHARS],
                    number,
                    where=where,
                    problem=problem,
                )


def _word(value: object, where: str) -> str:
    if not isinstance(value, str | int | float):
        raise ConfigError(f"{where}: expected a name")
    return str(value)[:MAX_NAME_CHARS]


def _split(result: object) -> str:
    dataset = result.get("dataset") if isinstance(result, dict) else None
    name = dataset.get("name") if isinstance(dataset, dict) else None
    return f" on {name}" if isinstance(name, str) else ""


def _of(path: Path, where: str, value: object, key: str) -> object:
    if not isinstance(value, dict) or value.get(key) is None:
        raise ConfigError(f"{path}: {where} has no {key}")
    return value[key]


def _list(path: Path, where: str, value: object) -> list[object]:
    if not isinstance(value, list) or len(value) > MOST:
        raise ConfigError(f"{path}: {where}: expected a list of at most {MOST}")
    return value
