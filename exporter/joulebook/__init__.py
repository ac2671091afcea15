"""Joulebook: every joule a lab's GPUs consume, booked once, to the experiment that consumed it."""

TYPE_CHECKING = False  # type checkers know the name; `typing` is slow to load
if TYPE_CHECKING:
    from joulebook.experiment_span import experiment

__version__ = "0.1.0"
__all__ = ["experiment"]


def __getattr__(name: str) -> object:
    """Load `experiment` on first use, since every command and daemon imports this package."""
    if name != "experiment":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from joulebook.experiment_span import experiment  # noqa: PLC0415

    globals()[name] = experiment
    return experiment
