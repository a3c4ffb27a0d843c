"""Draws docs/tree.svg, the picture of the README: python docs/tree.py"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

TRUNK = ["user 1\n(speech)", "agent 1", "user 2\n(speech)", "agent 2", "user 3\n(speech)"]
FORKS = [1, 3, 5]
COLOURS = {"trunk": "#4c78a8", "branch": "#f58518", "seen": "#c9d7e8", "own": "#fbd9b5"}


def main():
    plt.rcParams["svg.hashsalt"] = "speechdst"  # the same picture gives the same bytes
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(1.5, 1))
    for i, name in enumerate(TRUNK):
        left.barh(0, 0.96, left=i, height=0.5, color=COLOURS["trunk"])
        left.text(i + 0.48, 0, name, ha="center", va="center", color="white", fontsize=8)
    for k, fork in enumerate(FORKS):
        y = -0.9 - 0.7 * k
        left.plot([fork - 0.02] * 2, [-0.25, y], color=COLOURS["branch"], lw=1.5)
        left.barh(y, 1.6, left=fork - 0.02, height=0.45, color=COLOURS["branch"])
        left.text(fork + 0.78, y, f"state {k + 1} (JSON)", ha="center", va="center", fontsize=8)
    left.set(xlim=(-0.1, 6.8), ylim=(-2.7, 0.5), title="a dialogue: trunk and branches")
    left.axis("off")
    n, sizes = len(TRUNK), [2, 2, 2]
    total = n + sum(sizes)
    seen = np.zeros((total, total))
    seen[:n, :n] = np.tril(np.ones((n, n)))
    start = n
    for fork, size in zip(FORKS, sizes, strict=True):
        for q in range(start, start + size):
            seen[q, :fork], seen[q, start : q + 1] = 1, 2
        start += size
    right.imshow(seen, cmap=matplotlib.colors.ListedColormap(
        ["white", COLOURS["seen"], COLOURS["own"]]), aspect="equal")
    right.set_xticks(np.arange(total + 1) - 0.5, [])
    right.set_yticks(np.arange(total + 1) - 0.5, [])
    right.grid(color="#999", lw=0.4)
    right.tick_params(length=0)
    right.set(title="each position sees two intervals", xlabel="keys", ylabel="queries")
    figure.tight_layout()
    figure.savefig(Path(__file__).with_name("tree.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
