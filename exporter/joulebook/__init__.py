"""Joulebook: every joule a lab's GPUs consume, booked once, to the experiment that consumed it."""

TYPE_CHECKING = False  # type checkers know the name; `typing` is slow to load
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from joulebook.experiment_span import experiment

    frame: Callable[..., Any]  # joulebook.frames.frame, which no daemon may lead to

__version__ = "0.1.0"
__all__ = ["experiment", "frame"]


def __getattr__(name: str) -> object:
    """Load what is public on first use, since every command and daemon imports this package."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    place = {"experiment": "experiment_span", "frame": "frames"}[name]
    found: object = getattr(import_module(f"{__name__}.{place}"), name)
    globals()[name] = found
    return found
