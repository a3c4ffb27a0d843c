"""Where the wall time of a run goes, and what share of the chips' peak it reaches.

A step is only dispatched by its call, which returns while the devices still work on earlier ones,
and the loop waits for the devices only where it fetches values: the time of neither tells what a
step takes. So a thread of its own waits for the values of each step and notes when they are there.
What a second counts as:

    step        the devices work on a step: from its call, or from the end of the step before it if
                that is later, until its values are there. Waiting for other hosts is part of it.
    input       the loop waits for its next batch and the devices have nothing to do.
    checkpoint  saving or restoring holds up the loop, and the devices have nothing to do.
    compile     the first call of a step function, which compiles it.
    other       the rest: start, planning, placing parameters, writing metrics.

Goodput is the share of `step`. Hosts count for themselves; what is written is the first one's.
"""

import collections
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future

import jax

from speechdst.flops import CHIPS, chip_of

KINDS = ("step", "input", "checkpoint", "compile", "other")


class Clock:
    """Counts from its making on; `now` gives seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self.now, self.since = now, now()
        self.idle = self.since  # since when the devices have had nothing to do
        self.spans: list[tuple[str, float, float]] = []
        self.running: list[tuple[float, Future]] = []
        self.total: collections.Counter[str] = collections.Counter()
        self.compiled: Callable | None = None
        self.watched: queue.SimpleQueue = queue.SimpleQueue()
        # A daemon: a device that never answers must not keep a failed run from ending.
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            values, ended = self.watched.get()
            try:
                jax.block_until_ready(values)
            except Exception as error:  # raised where its time is asked for
                ended.set_exception(error)
            else:
                ended.set_result(self.now())
            del values  # or the last ones of a stage stay on the devices

    @contextlib.contextmanager
    def span(self, kind: str) -> Iterator[None]:
        """What is done within counts as `kind`, one of input, checkpoint, compile."""
        began = self.now()
        try:
            yield
        finally:
            self.spans.append((kind, began, self.now()))

    def step(self, call: Callable, *arguments) -> tuple:
        """`call(*arguments)`, a train step that returns (state, values)."""
        if call != self.compiled:
            with self.span("compile"):
                state, values = call(*arguments)
            self.compiled, began = call, self.now()
        else:
            began = self.now()
            state, values = call(*arguments)
        ended: Future = Future()
        self.watched.put((values, ended))
        self.running.append((began, ended))
        return state, values

    def take(self) -> dict[str, float]:
        """Seconds by kind since it was last asked; waits for the steps that are under way."""
        busy = []
        for began, ended in self.running:
            began, done = max(began, self.idle), ended.result()
            if done > began:
                busy.append((began, done))
                self.idle = done
        seconds = dict.fromkeys(KINDS, 0.0)
        seconds["step"] = sum(b - a for a, b in busy)
        for kind, begin, end in self.spans:
            hidden = sum(max(0.0, min(end, b) - max(begin, a)) for a, b in busy)
            seconds[kind] += end - begin - hidden
        now = self.now()
        seconds["other"] = max(0.0, now - self.since - sum(seconds.values()))
        self.since, self.spans, self.running = now, [], []
        self.total.update(seconds)
        return seconds

    def summary(self) -> str:
        """A line on all that was counted."""
        self.take()
        whole = max(sum(self.total.values()), 1e-9)
        parts = ", ".join(f"{k} {self.total[k] / whole:.1%}" for k in KINDS if self.total[k])
        return f"{whole:.0f} s: {parts}"


def rates(seconds: Mapping[str, float], flops: float) -> dict[str, float]:
    """What is logged of `Clock.take()`: seconds by kind, goodput, and of the model FLOPs that the
    steps did on all devices, FLOP/s in steps and, where the chips' peak is known, MFU."""
    whole, step = sum(seconds.values()), seconds["step"]
    logged = {f"time/{kind}": value for kind, value in seconds.items()}
    if whole > 0:
        logged["goodput"] = step / whole
    if step > 0:
        logged["model TFLOP/s"] = flops / step / 1e12
        if chip := chip_of(jax.devices()[0].device_kind):
            logged["mfu"] = flops / step / (jax.device_count() * CHIPS[chip].flops)
    return logged
