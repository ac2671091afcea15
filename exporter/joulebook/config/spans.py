"""Keys of `[marks]`: experiments that programs name in code.

See docs/in-code.md for what marks are.
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
            '"auto": used where the directory exists, or where this node has no SLURM; true: the '
            "directory is created; false: off."
        ),
    ] = "auto"
    dir: Annotated[
        str,
        doc("Directory of the mark files. All users write to it (mode 1777, like /tmp)."),
    ] = DIRECTORY
