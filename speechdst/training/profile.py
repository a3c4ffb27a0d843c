"""A trace of chosen steps, for TensorBoard's profile plugin, XProf or Perfetto.

`--profile=10:13` traces steps 11, 12 and 13 of each stage that runs, into WORKDIR/profile/STAGE.
Leave out a stage's first steps: they compile. The values of the last step are waited for before
the trace ends, so a traced step is a whole one.
"""

import re
from pathlib import Path

import jax

from speechdst.data.dialogue import BadInput


class Profile:
    """Traces the steps after `start` up to `stop`; `bounds` is "START:STOP", or "" for none.

    Raises `BadInput` if it is something else.
    """

    def __init__(self, bounds: str, folder: Path):
        found = re.fullmatch(r"(\d+):(\d+)", bounds)
        if bounds and not (found and int(found[1]) < int(found[2])):
            raise BadInput(f"is {bounds!r}", field="--profile",
                           mend="give START:STOP, the steps after START up to STOP, as 10:13")
        self.start, self.stop = map(int, found.groups()) if found else (0, 0)
        self.folder, self.tracing = folder, False

    def before(self, step: int) -> None:
        """To be called with the number of steps done, before the next one."""
        if self.start <= step < self.stop and not self.tracing:
            jax.profiler.start_trace(self.folder)
            self.tracing = True

    def after(self, step: int, values, last: bool) -> None:
        """To be called with the number of steps done and the values of the latest; `last`: no
        other follows."""
        if self.tracing and (step >= self.stop or last):
            jax.block_until_ready(values)
            jax.profiler.stop_trace()
            self.tracing = False
            print(f"  profile of the steps up to {step}: {self.folder}")
