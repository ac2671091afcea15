"""Joulebook: every joule a lab's GPUs consume, booked once, to the experiment that consumed it."""

TYPE_CHECKING = False  # type checkers know the name; `typing` is slow to load
if TYPE_CHECKING:
    from joulebook.experiment_span import experiment
    from joulebook.frames import frame

__version__ = "0.1.0"
__all__ = ["experiment", "frame"]


def __getattr__(name: str) -> object:
    """Load what is public on first use, since every command and daemon imports this package."""
    if name == "experiment":
        from joulebook.experiment_span import experiment as found  # noqa: PLC0415
    elif name == "frame":
        from joulebook.frames import frame as found  # type: ignore[assignment]  # noqa: PLC0415
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found
