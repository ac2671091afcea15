"""The key of the configuration file for experiments that programs name themselves.

See `config.node` for how keys are documented, and docs/in-code.md for what marks are.
"""

from __future__ import annotations

from typing import Annotated

from joulebook.config.node import Enabled, Section, doc
from joulebook.experiment_span import DIRECTORY


class Marks(Section, frozen=True):
    """`with joulebook.experiment(...)` and `python -m joulebook.mark`."""

    enabled: Annotated[
        Enabled,
        doc(
            '"auto": where the directory is there, or where this node has no SLURM; true: the '
            "directory is made; false: not used."
        ),
    ] = "auto"
    dir: Annotated[
        str,
        doc("Directory of the mark files. All users write into it (mode 1777, like /tmp)."),
    ] = DIRECTORY
