"""Joint goal accuracy at equal training time with speech in the context: trees or single turns.

    python -m benchmarks.equal_time_spoken --run=runs/demo

Goes on from a run of the demo, which tracks with past turns as text: now all that the users of a
dialogue have said stands in the context as speech (`spoken_history`), which a tree holds, and
encodes, once for all its answers. Single turns hold it once for every answer. Both arms train what
the demo's last stage trains, at its learning rate, with speech that is encoded in every step and
masked as there, and rows of one size; what they plan in them is their own. Dialogues are simulated
and spoken as the demo's, the held-out ones by other voices, but have more turns; they are prepared
in --out and found there again.

The last line is one JSON object with all figures.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from absl import flags
from rich.console import Console

from benchmarks import equal_time
from benchmarks.shapes import alone, up
from speechdst import memory
from speechdst.command import progress, run
from speechdst.data import loader, plan, preparation
from speechdst.data.batch import Batch
from speechdst.data.contexts import Context, Hearing, TreeBuilder
from speechdst.data.options import Options
from speechdst.training.checkpoint import load_run

CONTEXT = Context("spoken_history", "speech")


class OneByOne(TreeBuilder):
    """Every answer of a dialogue's trees as a tree of its own."""

    def keys(self, dialogue):
        return list(range(len(self._apart(dialogue))))

    def tree(self, dialogue, key):
        return self._apart(dialogue)[key]

    def _apart(self, dialogue):
        made = []
        for key in super().keys(dialogue):
            made += alone(super().tree(dialogue, key))
        return made


@dataclasses.dataclass(frozen=True)
class Spoken(equal_time.Setup):
    """Dialogues as speech; a row that holds the longest tree is a batch."""

    spec_augment: dict = dataclasses.field(default_factory=dict)

    context = CONTEXT
    terms: ClassVar = {"speech": "speech"}
    trainable = (r"^connector", r"^decoder")

    def batches(self):
        return {"trees": self._batches(TreeBuilder), "single_turns": self._batches(OneByOne)}

    def held_out(self):
        return (batch for _, batch in self._loader(TreeBuilder, self.test, {}).once([0]))

    def _batches(self, builder: type[TreeBuilder]) -> Iterator[dict[str, Batch]]:
        return ({"speech": b} for b in self._loader(builder, self.train, self.spec_augment))

    def _loader(self, builder: type[TreeBuilder], dialogues, spec_augment) -> loader.Loader:
        build = lambda cls: cls(CONTEXT, self.tokenizer, self.config.soft_length,
                                Hearing.of(self.config.encoder))
        trees = plan.measure(dialogues, build(TreeBuilder).sizes_only())
        return loader.make([loader.Source(dialogues)], build(builder),
                           positions=up(max(t.positions for t in trees), 128), rows=1,
                           seed=0, buckets=2, channels=self.config.encoder.channels,
                           spec_augment=spec_augment)


def spoken(folder: Path, out: Path, dialogues: int, held_out: int, turns: tuple[int, int],
           processes: int) -> Spoken:
    """The model of a run, over dialogues as it was prepared with, but of so many turns."""
    c = equal_time.config_of(folder)
    tokenizer, config, params = load_run(c, folder)
    spec = c.prepare.simulated.to_dict()
    spec["splits"] = {name: spec["splits"][name] | dict(dialogues=count, turns=turns)
                      for name, count in (("train", dialogues), ("test", held_out))}
    made, _ = preparation.prepare("simulated", Options.parse("simulated", spec), out,
                                  processes=processes, progress=progress)
    joint = c.stages.joint
    return Spoken(config, tokenizer, params, made.dialogues("train"), made.dialogues("test"),
                  lr=joint.optimizer.lr, max_new=c.evaluation.max_new,
                  spec_augment=joint.batches.speech.spec_augment.to_dict())


def main(argv):
    del argv
    memory.start_devices()
    console = Console()
    setup = spoken(Path(_RUN.value), Path(_OUT.value), _DIALOGUES.value, 60,
                   tuple(map(int, _TURNS.value)), _PROCESSES.value)
    result = equal_time.compare(setup, _SECONDS.value,
                                lambda line: console.print(line, highlight=False))
    equal_time.show(console, result)
    print(json.dumps(result))


if __name__ == "__main__":
    _RUN = flags.DEFINE_string("run", "runs/demo", "A run of the demo.")
    _OUT = flags.DEFINE_string("out", "runs/equal_time", "Folder of the prepared dialogues.")
    _SECONDS = flags.DEFINE_float("seconds", 240.0, "Step time of each arm.")
    _TURNS = flags.DEFINE_list("turns", ["4", "8"], "Fewest and most user turns.")
    _DIALOGUES = flags.DEFINE_integer("dialogues", 800, "Dialogues to train on.")
    _PROCESSES = flags.DEFINE_integer("processes", 2, "Processes that prepare them.")
    run(main)
