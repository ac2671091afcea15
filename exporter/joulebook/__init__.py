"""Joulebook: every joule a lab's GPUs burn, booked once, to the experiment that burned it."""

from joulebook.experiment_span import experiment

__version__ = "0.1.0"
__all__ = ["experiment"]
