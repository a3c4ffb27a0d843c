"""How much of a gap between two models a third one closes, and how much data it takes.

Counts are right turns, int [seeds, dialogues] for each arm, over the same dialogues of `turns` user
turns each; a rate is of any counts (joint goal accuracy: right of all turns; slot F1: twice the
matched of the slots named in either state). Intervals are over seeds and dialogues, drawn crosswise
(`bootstrap.crossed`): what is compared is always of the same draw.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

from speechdst.metrics.bootstrap import bounds, crossed

Triple = tuple[float | None, float | None, float | None]
"""A figure with the bounds of its 95 % interval; None: undefined."""
Rate = tuple[np.ndarray, np.ndarray]
"""What is counted of an arm, and of how many: as the arguments of `percent`."""


def percent(part: np.ndarray, whole: np.ndarray) -> Triple:
    """A rate in percent; `whole` as `part`, or [dialogues] if it is the same for all seeds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _of(lambda x: 100 * x[0] / x[1], _aligned(part, whole))


def gain(right: np.ndarray, other: np.ndarray, turns: np.ndarray) -> Triple:
    """The joint goal accuracy that an arm has over another, in points."""
    return _of(lambda x: 100 * (x[0] - x[1]) / x[2], _aligned(right, other, turns))


def gap_closed(source: Rate, joint: Rate, target: Rate) -> Triple:
    """(joint - source) / (target - source): 0, no better than speech of the source corpus alone; 1,
    as good as speech of the target corpus (arXiv 2511.22503). All None where target is no better
    than source; draws in which it is not are left out of the interval, and with over 2.5 % of them
    there is none."""
    def share(x):
        with np.errstate(divide="ignore", invalid="ignore"):
            source, joint, target = x[::2] / x[1::2]
            return np.where(target > source, (joint - source) / (target - source), np.nan)

    return _of(share, _aligned(*source, *joint, *target))


def _aligned(*arms: np.ndarray) -> np.ndarray:
    """[arms, seeds, dialogues], of the seeds that all have; turns [dialogues] are of all seeds."""
    seeds = min(len(x) for x in arms if x.ndim == 2)
    return np.stack([np.broadcast_to(x, (seeds, x.shape[-1])) if x.ndim == 1 else x[:seeds]
                     for x in arms])


def _of(statistic, counts: np.ndarray) -> Triple:
    value = float(statistic(counts.sum((1, 2))))
    if not np.isfinite(value):
        return None, None, None
    return value, *bounds(statistic(crossed(counts)))


@dataclasses.dataclass(frozen=True)
class Curve:
    """accuracy(n) = low + (high - low) * n / (n + half): what is there without data, what no amount
    goes beyond, and the amount that goes half of the way."""

    low: float
    high: float
    half: float

    def __call__(self, amount):
        amount = np.asarray(amount, np.float64)
        return self.low + (self.high - self.low) * amount / (amount + self.half)

    def needed(self, accuracy: float) -> float:
        """The amount that reaches an accuracy; inf if none does."""
        share = (accuracy - self.low) / (self.high - self.low) if self.high > self.low else 1.0
        if share <= 0:
            return 0.0
        return self.half * share / (1 - share) if share < 1 else float("inf")


def fit(amounts: Sequence[float], accuracies: Sequence[float]) -> Curve | None:
    """The curve through measured points, least squares; `amounts` begin with 0, where it is fixed.
    None if more data do no good."""
    amounts, found = np.asarray(amounts, float), np.asarray(accuracies, float)
    low, rise = found[0], found[1:].max() - found[0]
    if rise <= 0:
        return None
    some = amounts[1:]
    try:
        (gain, half), _ = scipy.optimize.curve_fit(
            lambda n, gain, half: gain * n / (n + half), some, found[1:] - low,
            p0=(rise, some[len(some) // 2]),
            bounds=((0, some.min() / 100), (max(100 - low, rise), some.max() * 100)))
    except RuntimeError:
        return None
    return Curve(low, low + gain, half)


def fitted(rights: Mapping[float, np.ndarray], turns: np.ndarray, accuracy: float,
           draws: int = 200) -> tuple[Curve | None, Triple]:
    """The curve of arms by amount of data, and the amount needed for an accuracy in percent with
    its interval, in which inf is an amount that no curve reaches it with."""
    amounts = sorted(rights)
    counts = _aligned(*(rights[a] for a in amounts), turns)
    sums = counts.sum((1, 2))
    curve = fit(amounts, 100 * sums[:-1] / sums[-1])
    drawn = crossed(counts, draws)
    needed = [c.needed(accuracy) if (c := fit(amounts, x)) else np.inf
              for x in (100 * drawn[:-1] / drawn[-1]).T]
    low, high = np.quantile(needed, (0.025, 0.975), method="nearest")
    return curve, (curve.needed(accuracy) if curve else float("inf"), float(low), float(high))


def falls(rights: Mapping[float, np.ndarray], turns: np.ndarray) -> list[tuple[float, float]]:
    """Neighbouring amounts of which the larger is worse, by more than chance: the interval of the
    difference leaves 0 out. A curve that has none may be called monotone."""
    amounts = sorted(rights)
    found = []
    for less, more in itertools.pairwise(amounts):
        high = gain(rights[more], rights[less], turns)[2]
        if high is not None and high < 0:
            found.append((less, more))
    return found


def smallest(rights: Mapping[float, np.ndarray], turns: np.ndarray) -> float | None:
    """The smallest amount whose gain over none has an interval above 0, as have all larger ones;
    None if no amount has."""
    amounts = sorted(rights)
    found = None
    for amount in reversed(amounts[1:]):
        low = gain(rights[amount], rights[amounts[0]], turns)[1]
        if low is None or low <= 0:
            break
        found = amount
    return found
