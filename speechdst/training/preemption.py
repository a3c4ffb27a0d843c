"""SIGTERM (preemption, SLURM, a user's kill) asks the loop to save and leave cleanly."""

import os
import signal

import jax
from jax.experimental import multihost_utils


class Preemption:
    """`requested()` turns true after SIGTERM or SIGINT; a second signal acts as without us.

    With many processes it turns true on all of them at the same call, whichever was signalled:
    JAX's coordinator hears of SIGTERM and picks the step; a step costs no word on the devices.
    """

    def __init__(self):
        self.stop, self.asked = False, 0
        self.many = jax.process_count() > 1
        # JAX handles SIGTERM itself then, and is told of Ctrl-C by one.
        signals = {signal.SIGINT} if self.many else {signal.SIGTERM, signal.SIGINT}
        self.previous = {s: signal.signal(s, self._note) for s in signals}

    def _note(self, number, frame):
        signal.signal(number, self.previous[number])
        if self.many:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.stop = True

    def requested(self) -> bool:
        """Whether to stop now; every process asks once for every step."""
        if self.many:
            self.asked += 1
            self.stop |= multihost_utils.reached_preemption_sync_point(self.asked)
        return self.stop

    def close(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
