"""Where every parameter of published recipes lies on a few meshes, and what a compiled step says to
its neighbours: what a change of rules or models should not change unnoticed.

    python tests/golden/shardings.py                 # writes shardings.json; nothing is compiled
    python tests/golden/shardings.py --collectives   # collectives.json: needs libtpu, and minutes
"""

import json
import sys
from pathlib import Path

import jax

from configs import joint_dst
from speechdst import compile as ahead
from speechdst import sharding
from speechdst.config import model_config
from speechdst.training import state

HERE = Path(__file__).parent
MESHES = {"gemma3_1b": dict(data=1, fsdp=16, tensor=1), "gemma3_4b": dict(data=8, fsdp=8, tensor=1),
          "gemma3_12b": dict(data=2, fsdp=16, tensor=2)}
# Compiled with the least effort; that changes programs, hardly what is said between devices.
COMPILED = ("gemma3_1b@v5e:4x4", "joint", "v5e:4x4", -1.0)


def shardings() -> dict:
    """{preset: {path: axes by dimension}} of the model's parameters on its mesh of `MESHES`."""
    made = {}
    for preset, axes in MESHES.items():
        mesh = jax.sharding.AbstractMesh(tuple(axes.values()), sharding.AXES)
        c = joint_dst.get_config(preset)
        _, shapes = state.abstract(model_config(c.model, c.model.decoder.vocabulary))
        made[preset] = {path: json.loads(json.dumps(list(sharding.spec(path, x.shape, mesh))))
                        for path, x in sorted(shapes.items())}
    return made


def collectives() -> dict:
    """{kind: [runs, MiB in all]} of the step of `COMPILED`."""
    preset, stage, topology, effort = COMPILED
    made: dict = {}
    for c in ahead.study(joint_dst.get_config(preset), stage, topology, effort)["collectives"]:
        runs, size = made.get(c["kind"], (0, 0.0))
        made[c["kind"]] = (runs + c["times"], size + c["times"] * c["bytes"] / 2**20)
    return {kind: [round(runs), round(size)] for kind, (runs, size) in sorted(made.items())}


def read(name: str) -> dict:
    return json.loads((HERE / f"{name}.json").read_text())


if __name__ == "__main__":
    which = "collectives" if "--collectives" in sys.argv else "shardings"
    text = json.dumps(globals()[which](), indent=1).replace("[\n   ", "[").replace(
        ",\n   ", ", ").replace("\n  ]", "]")
    (HERE / f"{which}.json").write_text(text + "\n")
