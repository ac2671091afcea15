"""Models that the simulated lab serves: what a lab server exposes of them, and what is true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.lab.scrape import Series
from tests.lab.world import END_S, FULL_S, scrape_s

from joulebook.lab.serving.metrics import SERVING


class Model(NamedTuple):
    """A model: what its server counts and takes each second."""

    cluster: str
    account: str
    experiment: str
    name: str
    prompt: float
    output: float
    active_w: float
    idle_w: float


MODELS = (
    Model("alpha", "nlp", "chat", "meta-llama/Llama-3.1-8B-Instruct", 400.0, 90.0, 350.0, 40.0),
    Model("alpha", "nlp", "chat", 'odd "name" \\d+', 12.0, 3.0, 90.0, 110.0),
    Model("beta", "vision", "captions", "qwen2-vl", 150.0, 20.0, 240.0, 15.0),
)
PER_KWH, PER_HOUR, GRAMS_PER_KWH = 0.25, 1.25, 400.0
_QUARTER_S = 900
_BY_NAME = {metric.name: metric for metric in SERVING}


def rates(model: Model) -> Mapping[tuple[str, tuple[str, ...]], float]:
    """What each counter of a model grows by in a second, by its name and further labels."""
    found: dict[tuple[str, tuple[str, ...]], float] = {
        ("tokens", ("prompt",)): model.prompt,
        ("tokens", ("output",)): model.output,
        ("requests", ()): model.output / 200,
    }
    for state, power_w in (("active", model.active_w), ("idle", model.idle_w)):
        kwh = power_w / 3_600_000
        share = power_w / (model.active_w + model.idle_w)
        found |= {
            ("energy_joules", ("gpu", state)): power_w * 0.9,
            ("energy_joules", ("host", state)): power_w * 0.1,
            ("cost", ("electricity", "EUR", state)): kwh * PER_KWH,
            ("cost", ("hardware", "EUR", state)): share * PER_HOUR / 3600,
            ("co2e_grams", (state,)): kwh * GRAMS_PER_KWH,
        }
    return found


def served(t0_s: int, t1_s: int) -> Iterator[Series]:
    """What was scraped of the lab server in [t0, t1): tokens at once, energy by quarter hours."""
    times, t_s = [], FULL_S + 11
    while t_s < min(t1_s, END_S + 1):
        times += [t_s] * (t_s >= t0_s)
        t_s += scrape_s(t_s)
    if not times:
        return
    for model in MODELS:
        for (what, labels), rate in rates(model).items():
            step_s = 1 if what in {"tokens", "requests"} else _QUARTER_S
            values = [(t_s - FULL_S) // step_s * step_s * rate for t_s in times]
            metric = _BY_NAME[f"joulebook_serving_{what}_total"]
            of = (model.cluster, model.account, model.experiment, model.name)
            yield Series("", metric, (*of, *labels), times, values)


def total(span_s: int, what: str, *labels: str) -> float:
    """What all models came to in a span, of the counters that have those labels."""
    return span_s * sum(
        rate
        for model in MODELS
        for (name, of), rate in rates(model).items()
        if name == what and {*labels} <= {*of}
    )
