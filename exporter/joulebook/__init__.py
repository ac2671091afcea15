"""Joulebook: every joule a lab's GPUs burn, booked once, to the experiment that burned it."""

__version__ = "0.1.0"
