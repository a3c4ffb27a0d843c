"""How much the loaders give: from ArrayRecord to a batch on the device, by CPU second and by wall.

    python -m benchmarks.loader                          # simulates and speaks dialogues: minutes
    python -m benchmarks.loader --data=data/published/spokenwoz --workers=0,4,16
    python -m benchmarks.loader --quick                  # the size of a test
    python -m benchmarks.loader --steps_per_second=12    # what the step takes, if it was measured

Every arm is the joint stage of a preset of configs/joint_dst.py over the same dialogues: one over
waveforms (WavLM, a tree a turn, stored without features) and one over stored log-mel features with
SpecAugment (a tree a dialogue). Rates by CPU second are those of one core and stand on a busy
machine, too; rates by wall time are those of this machine while it ran.

The first arm is held against its own train step on --topology: how many cores of a host make its
share of the batches three times as fast as the step could take them, were it to run at the chips'
peak (--steps_per_second instead: as fast as that). The last line is one JSON object.
"""

import collections
import dataclasses
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import jax
from absl import flags

from configs import joint_dst
from speechdst.command import run
from speechdst.config import model_config
from speechdst.data import loader, preparation
from speechdst.data.options import Options
from speechdst.data.prepared import Prepared
from speechdst.data.tokenizer import Tokenizer, target_symbols, train
from speechdst.flops import CHIPS, step_flops
from speechdst.recipes import recipe_of

ARMS = {"waveform": ("gemma3_1b", "none"), "log_mel": ("multiwoz", "log_mel")}
CHIPS_PER_HOST = 4
MARGIN = 3  # the loader is to be this many times as fast as the step


@dataclasses.dataclass(frozen=True)
class Rate:
    """Of one loader: batches, what was in them, and what they took."""

    counts: dict[str, float]
    cpu_seconds: float
    wall_seconds: float



def simulate(folder: Path, dialogues: int) -> dict[str, Path]:
    """Spoken dialogues about as long as SpokenWOZ's, for each arm as its preset stores them."""
    splits = dict(train=dict(dialogues=dialogues, turns=(16, 20), words=(14, 24)))
    for name, (_, features) in ARMS.items():
        options = joint_dst.prepared("simulated", splits, held_out_voices=())
        preparation.prepare(name, Options.parse(name, options | dict(features=features)), folder,
                            processes=0)
    return {name: folder / name for name in ARMS}


def loaders(preset: str, data: Path, split: str, workers: int, rows: int = 0):
    """The config, stage, model and loaders of a preset's joint stage over other data."""
    config = joint_dst.get_config(preset)
    prepared = Prepared(data)
    texts = (turn.text for d in prepared.dialogues(split) for turn in d.turns)
    tokenizer = Tokenizer(train(texts, target_symbols(prepared.schema), 640))
    stage = config.stages.joint
    config.data_dir, config.loader_workers = str(data.parent), workers
    for batch in stage.batches.values():
        batch.sources = (dict(data=data.name, split=split, weight=1.0),)
        batch.rows = rows or batch.rows
    model = model_config(config.model, tokenizer.size)
    return stage, model, recipe_of(config).loaders(config, stage, tokenizer, model, {})


def rate(source: loader.Loader, seconds: float) -> Rate:
    """Takes batches onto the device for so long; one more beforehand fills the buffers.

    A dialogue is read when all its answers are, be they in one tree or in one each.
    """
    items = source.plans[0].items
    dialogue = sum(i.answers for i in items) / len({i.dialogue for i in items})
    batches = iter(source)
    jax.block_until_ready(jax.device_put(next(batches)))
    wall, cpu, counts = time.perf_counter(), time.process_time(), collections.Counter()
    while not counts or time.perf_counter() - wall < seconds:
        batch = next(batches)
        found = loader.count(batch)
        counts.update({"batches": 1, "dialogues": found["answers"] / dialogue,
                       "answers": found["answers"], "audio hours": found["frames"] / 360_000})
        jax.block_until_ready(jax.device_put(batch))
    return Rate(counts, time.process_time() - cpu, time.perf_counter() - wall)


def cores(rates: Mapping[str, Rate], steps_per_second: float, hosts: int) -> float:
    """Cores that each host needs to make its share of every batch `MARGIN` times as fast as
    `steps_per_second` steps take them."""
    step = sum(r.cpu_seconds / r.counts["batches"] for r in rates.values())  # a batch of each
    return MARGIN * steps_per_second * step / hosts


def at_peak(stage, model, batches: Mapping, topology: str) -> tuple[float, int]:
    """Steps/s of which the model FLOPs alone take every chip's peak, and the hosts."""
    generation, sizes = topology.split(":")
    chips = math.prod(int(n) for n in sizes.split("x"))
    flops = sum(step_flops(model, stage, batches).values())
    return chips * CHIPS[generation].flops / flops, max(1, chips // CHIPS_PER_HOST)


def measure(data: Mapping[str, Path], split: str, seconds: float, workers: tuple[int, ...],
            topology: str, steps_per_second: float = 0, rows: int = 0, say=print) -> dict:
    """Rates by arm, loader and number of workers, and the cores that the first arm needs."""
    result: dict = {"arms": {}}
    for arm, (preset, _) in ARMS.items():
        per_core, found = {}, {}
        for count in workers:
            began = time.process_time()
            stage, model, made = loaders(preset, data[arm], split, count, rows)
            planning = time.process_time() - began
            for name, value in sorted(made.items()):
                r = rate(value, seconds)
                own = found.setdefault(name, {"batches_per_second": {}})
                own["batches_per_second"][count] = r.counts["batches"] / r.wall_seconds
                line = f"{r.counts['batches'] / r.wall_seconds:7.2f} batches/s"
                if count:  # what is left to the process that trains bounds what workers gain
                    own.setdefault("cpu_seconds_per_batch_beside_workers", {})[count] = (
                        r.cpu_seconds / r.counts["batches"])
                    line += f"; {1e3 * r.cpu_seconds / r.counts['batches']:.1f} ms of CPU each here"
                else:
                    per_core[name] = r
                    own["planning_cpu_seconds"] = planning
                    own["per_cpu_second"] = {k: n / r.cpu_seconds for k, n in r.counts.items()}
                    line += "; by CPU second " + ", ".join(
                        f"{n:.2f} {k}" for k, n in own["per_cpu_second"].items())
                say(f"{arm:9} {name:7} {count} workers: {line}")
        result["arms"][arm] = found
        if arm == next(iter(ARMS)):
            batches = {name: next(iter(value)) for name, value in made.items()}
            given, hosts = at_peak(stage, model, batches, topology)
            given = steps_per_second or given
            result |= {"topology": topology, "hosts": hosts, "steps_per_second": given,
                       "cores_per_host": cores(per_core, given, hosts)}
    say(f"{topology}: {given:.1f} steps/s {'as given' if steps_per_second else 'at peak'}; "
        f"{MARGIN} times that takes {result['cores_per_host']:.1f} cores on each of {hosts} hosts")
    return result


def main(argv):
    del argv
    workers = tuple(int(n) for n in _WORKERS.value)
    if workers[0] != 0:
        raise flags.IllegalFlagValueError("--workers begins with 0, which tells the rate of a core")
    given = dict(split=_SPLIT.value, seconds=_SECONDS.value, workers=workers,
                 topology=_TOPOLOGY.value, steps_per_second=_STEPS.value)
    dialogues = _DIALOGUES.value
    if _QUICK.value:
        given |= dict(seconds=0.1, rows=1)
        dialogues = 4
    with tempfile.TemporaryDirectory() as folder:
        data = (dict.fromkeys(ARMS, Path(_DATA.value)) if _DATA.value
                else simulate(Path(folder), dialogues))
        result = measure(data, **given)
        # Workers read the folder ahead: they go before it does.
        for worker in multiprocessing.active_children():
            worker.kill()
    print(json.dumps(result))


if __name__ == "__main__":
    _DATA = flags.DEFINE_string("data", "", "A prepared data set; none: simulated dialogues.")
    _SPLIT = flags.DEFINE_string("split", "train", "Its split.")
    _DIALOGUES = flags.DEFINE_integer("dialogues", 24, "To simulate.")
    _SECONDS = flags.DEFINE_float("seconds", 10.0, "Of measuring each loader.")
    _WORKERS = flags.DEFINE_list("workers", ["0", "2"], "Numbers of worker processes to try.")
    _TOPOLOGY = flags.DEFINE_string("topology", "v5e:4x4", "That the step is to run on.")
    _STEPS = flags.DEFINE_float("steps_per_second", 0.0, "Of the step; 0: by the chips' peak.")
    _QUICK = flags.DEFINE_boolean("quick", False, "Everything at the size of a test.")
    run(main)
