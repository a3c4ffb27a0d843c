"""Metrics of a run: metrics.jsonl (one JSON object a line), TensorBoard, and the progress line."""

import json
import math
import sys
import time
from pathlib import Path

from rich.console import Console
from tensorboardX import SummaryWriter

from speechdst.distributed import first
from speechdst.files import write_text


class Metrics:
    """Writes what a stage logs, on the first host; rows of steps that a resumed run will repeat
    are dropped."""

    def __init__(self, workdir: Path, stage: str, resume_step: int):
        self.path, self.stage = workdir / "metrics.jsonl", stage
        self.board = None
        if not first():
            return
        if self.path.exists():
            rows = [json.loads(line) for line in self.path.read_text().splitlines() if line]
            kept = [r for r in rows if r["stage"] != stage or r["step"] <= resume_step]
            write_text(self.path, "".join(json.dumps(r) + "\n" for r in kept))
        self.board = SummaryWriter(str(workdir / "tensorboard" / stage),
                                   purge_step=resume_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        if self.board is None:
            return
        with self.path.open("a") as f:
            f.write(json.dumps({"stage": self.stage, "step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


class Progress:
    """A live line on a terminal, a plain line every `every` seconds elsewhere."""

    def __init__(self, stage: str, steps: int, start: int, every: float = 10.0):
        self.stage, self.steps, self.start, self.every = stage, steps, start, every
        self.console = Console(file=sys.stdout, highlight=False)
        self.began, self.printed = time.monotonic(), float("-inf")

    def show(self, step: int, values: dict[str, float], final: bool = False) -> None:
        now = time.monotonic()
        live = self.console.is_terminal
        if not final and not live and now - self.printed < self.every:
            return
        self.printed = now
        left = (now - self.began) / max(step - self.start, 1) * (self.steps - step)
        numbers = "  ".join(f"{name} {_short(value)}" for name, value in values.items())
        line = (f"{self.stage} {step}/{self.steps}  {numbers}  "
                f"left {int(left // 60)}:{int(left % 60):02d}")
        if live:
            self.console.print(line.ljust(self.console.width - 1)[: self.console.width - 1],
                               end="\n" if final else "\r", markup=False)
        else:
            print(line, flush=True)


def _short(value: float) -> str:
    return f"{value:.2e}" if value and (abs(value) < 1e-2 or abs(value) >= 1e4) else f"{value:.3f}"


def check_finite(values: dict[str, float], step: int) -> None:
    """Raises FloatingPointError naming what is not finite, and when."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"step {step}: {', '.join(bad)} not finite; lower optimizer.lr or optimizer.clip, or "
            "look at the batch of this step")
