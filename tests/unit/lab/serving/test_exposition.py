"""What each model server says, from `tests/data/serving/`."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulebook.core.report.serving import Produced
from joulebook.errors import InputError
from joulebook.lab.serving.exposition import parse

P, OUT, R = Produced.PROMPT, Produced.OUTPUT, Produced.REQUESTS
DATA = Path(__file__).parents[3] / "data/serving"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.mark.parametrize(
    ("file", "models", "started_s"),
    [
        ("vllm", {LLAMA: {P: 2650, OUT: 852, R: 3}}, 1_796_098_111),
        ("vllm-triton", {"vllm_model": {P: 10, OUT: 16}}, 0),
        ("sglang", {LLAMA: {P: 8_128_902, OUT: 7_557_572}}, 0),
        ("sglang-0.5", {"qwen3.8-27b": {P: 1500, OUT: 150, R: 3}}, 0),
        ("tgi", {"": {P: 18_000, OUT: 12_500, R: 150}}, 0),
        ("trtllm-serve", {"Qwen/Qwen3-0.6B": {P: 31_000, OUT: 12_345, R: 155}}, 0),
        ("triton-trtllm", {"tensorrt_llm": {P: 240, OUT: 1180, R: 12}}, 0),
        ("llama-cpp", {"": {P: 13, OUT: 7}}, 0),
    ],
)
def test_every_server_is_understood(
    file: str, models: dict[str, dict[Produced, int]], started_s: int
) -> None:
    found = parse((DATA / f"{file}.txt").read_text())
    assert found.models == models
    assert found.started_s == started_s


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no_tokens"),
        ("<html>hello</html>", "no_tokens"),
        ('{"error": "not here"}', "no_tokens"),
        ("node_load1 0.5\n", "no_tokens"),
        ('vllm:prompt_tokens_total{model_name="a" 5\n', "garbage"),
        ("vllm:prompt_tokens_total twelve\n", "garbage"),
        ("vllm:prompt_tokens_total NaN\n", "no_tokens"),
        ("vllm:prompt_tokens_total -5\n", "no_tokens"),
        ("vllm:prompt_tokens_total 1e300\n", "no_tokens"),
        # Minutes of work for a parser.
        ('vllm:prompt_tokens_total{model_name="' + '\\"' * 10_000 + '"} 5\n', "garbage"),
    ],
)
def test_what_is_no_counter_of_tokens_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InputError) as error:
        parse(text)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (r"a\nb", "a b"),
        ("(overflow)", "model (overflow)"),
        ("x" * 5000, "x" * 128),
        ("\u202eevil", "evil"),
    ],
)
def test_names_of_models_are_cleaned(said: str, name: str) -> None:
    (found,) = parse(f'vllm:prompt_tokens_total{{model_name="{said}"}} 5\n').models
    assert found == name


def test_what_many_series_add_up_to_fits_into_the_ledger() -> None:
    text = "".join(f'vllm:prompt_tokens_total{{n="{n}"}} {2**53 - 1}\n' for n in range(2000))
    assert parse(text).models == {"": {P: 2**53}}
