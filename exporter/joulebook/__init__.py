"""Joulebook: every joule a lab's GPUs consume, booked once, to the experiment that consumed it."""

from joulebook.experiment_span import experiment

__version__ = "0.1.0"
__all__ = ["experiment"]
