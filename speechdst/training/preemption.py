"""SIGTERM (preemption, SLURM, a user's kill) asks the loop to save and leave cleanly."""

import signal


class Preemption:
    """`requested` turns true on SIGTERM or SIGINT; a second signal acts as it would without us."""

    def __init__(self):
        self.requested = False
        self.previous = {s: signal.signal(s, self._note) for s in (signal.SIGTERM, signal.SIGINT)}

    def _note(self, number, frame):
        self.requested = True
        signal.signal(number, self.previous[number])

    def close(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
