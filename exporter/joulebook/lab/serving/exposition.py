"""The token counters in the metrics of a model server, whichever it is.

The names are those that each server documents; `tests/data/serving/` has answers of all of them:

- vLLM: https://docs.vllm.ai/en/stable/usage/metrics.html (its Triton backend has the same names)
- SGLang: https://docs.sglang.ai/references/production_metrics.html
- TGI: https://huggingface.co/docs/text-generation-inference/reference/metrics (lengths of requests
  are histograms: their sum counts tokens, their number requests)
- TensorRT-LLM's `trtllm-serve`, and its backend in Triton (histograms, too)
- llama.cpp's server: no model and no requests
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from joulebook.core.report.serving import Counts, Produced
from joulebook.core.sanitize import clean_label, one_line
from joulebook.core.workloads import is_reserved
from joulebook.errors import InputError

NAMES: Mapping[str, Produced] = {
    "vllm:prompt_tokens_total": Produced.PROMPT,
    "vllm:generation_tokens_total": Produced.OUTPUT,
    "vllm:request_success_total": Produced.REQUESTS,
    "sglang:prompt_tokens_total": Produced.PROMPT,
    "sglang:generation_tokens_total": Produced.OUTPUT,
    "sglang:num_requests_total": Produced.REQUESTS,
    "tgi_request_input_length_sum": Produced.PROMPT,
    "tgi_request_generated_tokens_sum": Produced.OUTPUT,
    "tgi_request_generated_tokens_count": Produced.REQUESTS,
    "trtllm_prompt_tokens_total": Produced.PROMPT,
    "trtllm_generation_tokens_total": Produced.OUTPUT,
    "trtllm_request_success_total": Produced.REQUESTS,
    "nv_llm_input_token_len_sum": Produced.PROMPT,
    "nv_llm_output_token_len_sum": Produced.OUTPUT,
    "nv_llm_output_token_len_count": Produced.REQUESTS,
    "llamacpp:prompt_tokens_total": Produced.PROMPT,
    "llamacpp:tokens_predicted_total": Produced.OUTPUT,
}
"""What each counter counts."""

_START = "process_start_time_seconds"
_FAILED = frozenset({"abort", "error", "cancelled", "timeout"})
"""Of the label `finished_reason`: such a request was not answered."""
_MOST = 1 << 53
"""Above it a number in an exposition is not exact."""
_LINE = 16_384
"""The longest line that is read: taking one apart takes time by the square of its length."""


class ServerCounters(NamedTuple):
    """What a server says.

    Attributes:
        models: Counts by name of the model; `""`: it states none.
        started_s: When its process started (UTC seconds); 0: it does not say.

    """

    models: Mapping[str, Counts]
    started_s: int = 0


def parse(text: str) -> ServerCounters:
    """Read an exposition; lines of other metrics are not looked at.

    Raises `InputError`: `garbage` for lines that are none of an exposition, `no_tokens` where there
    is no counter of tokens.
    """
    lines = [line for line in text.split("\n") if _name(line) in NAMES or _name(line) == _START]
    if max(map(len, lines), default=0) > _LINE:
        raise InputError(f"a line of more than {_LINE} characters", reason="garbage")
    samples: list[tuple[str, Mapping[str, str], float]] = []
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            samples += [(each.name, each.labels, each.value) for each in family.samples]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"not an exposition: {one_line(str(error))}", reason="garbage") from None
    found = counted(samples)
    if not found:
        raise InputError("no counter of tokens in its metrics", reason="no_tokens")
    started = [value for name, _, value in samples if name == _START and 0 < value < _MOST]
    return ServerCounters(found, int(min(started, default=0)))


def _name(line: str) -> str:
    return line.partition("{")[0].partition(" ")[0].strip()


def counted(
    samples: Iterable[tuple[str, Mapping[str, str], float]],
) -> dict[str, dict[Produced, int]]:
    """Return counts by model; series that differ in other labels are parts of one counter."""
    found: dict[str, dict[Produced, int]] = {}
    for name, labels, value in samples:
        kind = NAMES.get(name)
        if kind is None or not math.isfinite(value) or not 0 <= value < _MOST:
            continue
        counts = found.setdefault(model_of(labels), {})
        answered = labels.get("finished_reason", "") not in _FAILED
        counts[kind] = min(counts.get(kind, 0) + int(value) * answered, _MOST)
    return found


def model_of(labels: Mapping[str, str]) -> str:
    """Return the name of a model, as it may be shown: it is the word of whoever runs the server."""
    name = clean_label(labels.get("model_name") or labels.get("model") or "")
    return f"model {name}" if is_reserved(name) else name
