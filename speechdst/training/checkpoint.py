"""Checkpoints: trainable parameters, optimizer, random state and data position in one step.

Saved asynchronously by Orbax and committed by a rename, so a killed run finds its last whole
checkpoint. Frozen parameters do not change and are written once per stage, not with every step.
"""

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, CustomSteps, LatestN

from speechdst import sharding
from speechdst.config import model_config, saved_steps, tokenizer_of
from speechdst.data.dialogue import BadInput
from speechdst.data.tokenizer import Tokenizer
from speechdst.hf import towers
from speechdst.models.dialogue_lm import DialogueLMConfig
from speechdst.training.state import TrainState, abstract, create, stored


class Checkpointer:
    """The checkpoints of one stage under `folder`; `fingerprint` says what they belong to."""

    def __init__(self, folder: Path, fingerprint: dict, keep: int = 2,
                 points: Collection[int] = ()):
        """Kept are the last `keep`, and those of the steps `points`."""
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fingerprint = fingerprint
        # Asked once, before any host could have written them: all hosts save together or none.
        self.frozen = (self.folder / "frozen").exists()
        self.manager = ocp.CheckpointManager(
            self.folder / "steps",
            options=ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy([LatestN(keep), CustomSteps(points)]),
                enable_async_checkpointing=True, create=True))

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def save(self, step: int, state: TrainState, iterators: dict, wait: bool = False) -> None:
        """`iterators`: Grain iterators by batch name, saved with the parameters they have fed: a
        small number each, the same on all hosts and for any number of them."""
        if step in self.manager.all_steps():
            return
        if not self.frozen and state.frozen:
            self.frozen = True
            with ocp.StandardCheckpointer() as saver:
                saver.save(self.folder / "frozen", state.frozen)
        self.manager.save(step, args=ocp.args.Composite(
            params=ocp.args.StandardSave(state.trainable),
            rest=ocp.args.StandardSave(_rest(state)),
            meta=ocp.args.JsonSave(self.fingerprint),
            data=ocp.args.JsonSave({name: it.get_state() for name, it in iterators.items()})))
        if wait:
            self.manager.wait_until_finished()

    def restore(self, template: TrainState, iterators: dict) -> TrainState:
        """The latest checkpoint, in the shapes and shardings of `template`, on whatever mesh it was
        saved; the iterators move to where they stood. The template's arrays are deleted: two
        states may not fit.

        Raises:
          BadInput: it belongs to another config, or a parameter is missing or misshapen.
        """
        step = self.latest()
        found = self.manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        check_fingerprint(found["meta"], self.fingerprint, self.folder)
        fits(_shapes(self.folder / "steps" / str(step) / "params"), template.trainable, self.folder)
        arrays, template = jax.tree.leaves(template), _abstract(template)
        for x in arrays:
            x.delete()
        with _explained(self.folder):
            restored = self.manager.restore(step, args=ocp.args.Composite(
                params=ocp.args.StandardRestore(template.trainable),
                rest=ocp.args.StandardRestore(_rest(template)),
                data=ocp.args.JsonRestore()))
        for name, iterator in iterators.items():
            iterator.set_state(restored["data"][name])
        if template.frozen:
            fits(_shapes(self.folder / "frozen"), template.frozen, self.folder)
        frozen = _restore(self.folder / "frozen", template.frozen)
        return TrainState(trainable=restored["params"], frozen=frozen, **restored["rest"])

    def close(self) -> None:
        self.manager.wait_until_finished()
        self.manager.close()


def points(stage: ConfigDict) -> list[int]:
    """The steps behind which a stage's checkpoint is kept, for its `points`, shares of its steps,
    to be evaluated each."""
    return sorted({max(1, round(share * stage.steps)) for share in stage.get("points", ())})


def load_params(folder: Path, template: dict, step: int = 0) -> dict:
    """All parameters of a stage's checkpoint of `step` (0: the latest), trainable and frozen, as
    `template` says.

    Raises:
      BadInput: no such checkpoint, or a parameter is missing, extra or misshapen.
    """
    trained, frozen = _trained(folder, step), folder.absolute() / "frozen"
    stored = {at: _shapes(at) if at.exists() else {} for at in (trained, frozen)}
    fits(stored[trained] | stored[frozen], template, folder)
    restored: dict = {}
    for at, shapes in stored.items():
        restored |= _restore(at, {p: template[p] for p in shapes})
    return restored


def _trained(folder: Path, step: int = 0) -> Path:
    """Where a stage keeps what it trained, after `step` (0: the latest); raises `BadInput` if it
    has no such checkpoint."""
    folder = folder.absolute()
    steps = saved_steps(folder)
    if not steps:
        raise BadInput("no finished checkpoint there", file=folder, mend="train this stage first")
    if step and step not in steps:
        raise BadInput(f"no checkpoint of step {step}, there are {steps}", file=folder)
    return folder / "steps" / str(step or steps[-1]) / "params"


def load_base(folders: Sequence[Path], template: dict, tokenizer: Tokenizer) -> dict:
    """Parameters of stages of other runs, to go on from: all of the first, of each further one
    what it trained.

    Raises:
      BadInput: as `load_params`; or a run had another vocabulary, whose embedding rows would mean
        other pieces here.
    """
    params = load_params(folders[0], template)
    for folder in folders[1:]:
        stored = _shapes(at := _trained(folder))
        fits(stored, own := {p: x for p, x in template.items() if p in stored}, folder)
        params |= _restore(at, own)
    for folder in folders:
        with _explained(folder), ocp.CheckpointManager((folder / "steps").absolute()) as manager:
            found = manager.restore(manager.latest_step(),
                                    args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        check_fingerprint(found["meta"], {"tokenizer": tokenizer.fingerprint}, folder)
    return params


def initial(config: ConfigDict, model: DialogueLMConfig, tokenizer: Tokenizer,
            template: dict) -> dict:
    """The parameters that a run starts from: those of the stage of another run that `config.base`
    names, or of several (see `load_base`), or read from the checkpoints of `config.pretrained` and
    the others drawn. As `template` says: path -> shape, dtype and sharding."""
    if base := config.get("base", ""):
        folders = [base] if isinstance(base, str) else base
        return load_base([Path(folder) for folder in folders], template, tokenizer)
    params = towers.load(config.pretrained, model, template)
    drawn = {path: x for path, x in template.items() if path not in params}

    def draw():
        made = create(model, config.seed)
        return {path: made[path].astype(x.dtype) for path, x in drawn.items()}

    return params | jax.jit(draw, out_shardings={p: x.sharding for p, x in drawn.items()})()


def load_run(config: ConfigDict, workdir: Path, stage: str = "", mesh: Mesh | None = None,
             step: int = 0) -> tuple[Tokenizer, DialogueLMConfig, dict]:
    """Tokenizer, model and parameters (over the mesh, or on the first device) of a run after
    `stage`, or after the last one of the config, or after `step` of its steps. Raises `BadInput` as
    `load_params` does."""
    tokenizer = tokenizer_of(config)
    model = model_config(config.model, tokenizer.size)
    stage, shapes = stage or config.order[-1], abstract(model)[1]
    dtypes = stored(shapes, config.stages[stage].trainable, model.dtype)
    where = sharding.parameters(shapes, mesh or sharding.make_mesh(devices=jax.devices()[:1]))
    template = {p: jax.ShapeDtypeStruct(x.shape, dtypes[p], sharding=where[p])
                for p, x in shapes.items()}
    return tokenizer, model, load_params(workdir / stage, template, step)


def kept(config: ConfigDict, workdir: Path, stage: str
         ) -> Iterator[tuple[int, tuple[Tokenizer, DialogueLMConfig, dict]]]:
    """(step, what `load_run` returns) of a stage, one after the other: its `points`, or its end;
    first, if it is one of preferences, as step 0 the model that it starts from."""
    mesh = sharding.make_mesh(**config.mesh)
    place = list(config.order).index(stage)
    if "objective" in config.stages[stage]:
        if place:
            yield 0, load_run(config, workdir, config.order[place - 1], mesh)
        else:
            tokenizer, model, params = load_run(config, workdir, stage, mesh)
            template = {p: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
                        for p, x in params.items()}
            del params
            yield 0, (tokenizer, model, initial(config, model, tokenizer, template))
    for step in points(config.stages[stage]) or [config.stages[stage].steps]:
        yield step, load_run(config, workdir, stage, mesh, step)


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Path -> shape of stored parameters."""
    with _explained(folder), ocp.StandardCheckpointer() as reader:
        stored = reader.metadata(folder).item_metadata.tree
    return {path: tuple(x.shape) for path, x in stored.items()}


def fits(stored: dict[str, tuple[int, ...]], template: dict, where: Path,
         mend: str = "use the config it was trained with, or another --workdir") -> None:
    """Raises `BadInput` listing parameters that are missing, extra or misshapen. (Orbax would
    notice while its readers are at work, and leave their threads complaining.)"""
    wrong = [f"{p} missing" for p in sorted(set(template) - set(stored))]
    wrong += [f"{p} extra" for p in sorted(set(stored) - set(template))]
    wrong += [f"{p} {stored[p]} instead of {tuple(x.shape)}" for p, x in template.items()
              if p in stored and stored[p] != tuple(x.shape)]
    if wrong:
        raise BadInput(f"{len(wrong)} of the stored parameters do not fit this model: "
                       f"{'; '.join(wrong[:5])}", file=where, mend=mend)


def _restore(folder: Path, template: dict) -> dict:
    if not template:
        return {}
    with _explained(folder), ocp.StandardCheckpointer() as reader:
        return reader.restore(folder, _abstract(template))


@contextlib.contextmanager
def _explained(folder: Path):
    """Orbax's complaints as one line that names the folder."""
    try:
        yield
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise BadInput(f"the checkpoint does not fit this model: "
                       f"{' '.join(str(error).split())[:300]}", file=folder,
                       mend="use the config it was trained with, or another --workdir") from error


def check_fingerprint(found: dict, expected: dict, where) -> None:
    for name, value in expected.items():
        if found.get(name) != value:
            raise BadInput(f"the checkpoint was written with {name} {json.dumps(found.get(name))}, "
                           f"this run has {json.dumps(value)}", file=where, field=name,
                           mend="use the config it was trained with, or another --workdir")


def _rest(state: TrainState) -> dict:
    return {"step": state.step, "optimizer": state.optimizer, "key": state.key}


def _abstract(tree):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)),
        tree)

