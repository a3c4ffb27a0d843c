"""Prepares the data of a config: corpora -> spoken, stored, measured dialogues, and a tokenizer.

    python -m speechdst.prepare --config=configs/joint_dst.py:demo
    python -m speechdst.prepare --config=configs/joint_dst.py:demo \\
        --config.prepare.simulated.limit=10 --only=simulated --processes=2

Every entry of `config.prepare` becomes a folder under `config.data_dir`, with shards of dialogues
(audio as FLAC, features), a manifest, a line of measures for each turn and the list of what was
left out and why; what an entry may say stands in `speechdst/data/options.py`. Then the tokenizer
is trained on the text of the training splits (`config.tokenizer`). The same config gives the same
bytes, whatever the number of processes.

Of conversations in two channels (`speechdst/data/conversations.py`) a codec is trained as well
(`config.codec`), and with both conversations and preference pairs are made into frames, which is
what training reads (`speechdst/data/frame_trees.py`); pairs that come later, by the same command
again.

With --features the recordings that are prepared are encoded once, in bfloat16, for stages that
say `encoded`: by the checkpoint that `config.pretrained.encoder` names, or by the encoder of a run
(--workdir, and --stage: after that stage). Training finds the result as long as its encoder is the
same to the last bit.

An interrupted preparation (Ctrl-C, a kill, a full disk) goes on with the same command. What is
there already is left alone; prepared with other options, it is refused unless --overwrite.
Input that cannot be used ends the command with one line and exit code 2.
"""

import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from speechdst import codec, command
from speechdst.codec import LogMelCodec
from speechdst.data import (
    auxiliary_trees,
    conversations,
    frame_trees,
    preparation,
    speech,
    workers,
)
from speechdst.data.dialogue import BadInput
from speechdst.data.options import Options
from speechdst.data.prepared import MANIFEST, Prepared
from speechdst.data.shard import clear_disk_errors, write_text
from speechdst.data.tokenizer import Tokenizer, target_symbols, train
from speechdst.decoding.parse import target
from speechdst.files import aside

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe: a config file, with its preset after a colon.", lock_config=True
)
_ONLY = flags.DEFINE_list("only", [], "Names of data sets to prepare; all if not given.")
_PROCESSES = flags.DEFINE_integer(
    "processes", None, "Worker processes; 0: this one alone; as many as cores if not given.",
    lower_bound=0,
)
_OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Replaces data sets and tokenizer that were made with other options."
)
_FEATURES = flags.DEFINE_boolean(
    "features", False, "Instead: encodes the prepared recordings with a frozen speech encoder."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", "", "With --features: the run whose encoder it is; empty: the pretrained one."
)
_STAGE = flags.DEFINE_string("stage", "", "With --features: after this stage; the last if empty.")


def run(
    config: ConfigDict, *, only: Iterable[str] = (), processes: int = 1, overwrite: bool = False
) -> None:
    """Prepares the data sets of `config.prepare` (those in `only`), then the tokenizer.

    Prints one line for each. Raises `BadInput` for anything that cannot be used.
    """
    data_dir = Path(config.data_dir)
    names = _named(config, only)
    for name in names:
        if not re.fullmatch(r"\w[\w-]*", name):
            raise BadInput(
                "a data set's name is made of letters, digits, _ and -",
                field=f"config.prepare.{name}",
            )
    conversing = {n for n in names if config.prepare[n].get("corpus") in conversations.CORPORA}
    parsed = {n: Options.parse(n, config.prepare[n]) for n in names if n not in conversing}
    for name in names:
        start = time.perf_counter()
        if name in conversing:
            print(conversations.prepare(
                name, config.prepare[name].to_dict(), data_dir, processes=processes,
                overwrite=overwrite, progress=command.progress), flush=True)
            continue
        prepared, work = preparation.prepare(
            name, parsed[name], data_dir, processes=processes, overwrite=overwrite,
            progress=command.progress,
        )
        print(_summary(prepared, work, time.perf_counter() - start), flush=True)
    with clear_disk_errors(data_dir):
        print(make_tokenizer(config, overwrite=overwrite), flush=True)
        if "codec" in config:
            print(make_codec(config, overwrite=overwrite), flush=True)
            make_frames(config, processes)


def encode_features(
    config: ConfigDict, workdir: str, stage: str = "", *, only: Iterable[str] = ()
) -> None:
    """Encodes the recordings of the prepared data sets; prints a line for each.

    Raises `BadInput` for anything that cannot be used.
    """
    from speechdst import encode, sharding  # here: preparation itself is free of JAX
    from speechdst.training.checkpoint import load_run

    if workdir:
        mesh = sharding.make_mesh(**config.mesh)
        _, model, params = load_run(config, Path(workdir), stage, mesh)
    else:
        model, params = encode.pretrained(config)
    for name in _named(config, only):
        prepared = Prepared(Path(config.data_dir) / name)
        if not any(sum(s["hours"].values()) for s in prepared.manifest["splits"].values()):
            continue  # text alone
        with clear_disk_errors(prepared.folder):
            print(encode.store(prepared, model, params, _features_progress(name)), flush=True)


def _features_progress(name: str):
    return lambda shards, total: command.progress(shards, total, f"{name} features")


def _named(config: ConfigDict, only: Iterable[str]) -> list[str]:
    """The names in `only`, or all, of `config.prepare`; an unknown one is an error."""
    if unknown := sorted(set(only) - set(config.prepare)):
        raise BadInput(
            f"no data set {unknown[0]!r}",
            field="--only",
            mend=f"config.prepare has {', '.join(config.prepare)}",
        )
    return [name for name in config.prepare if not only or name in only]


def make_tokenizer(config: ConfigDict, *, overwrite: bool = False) -> str:
    """Trains `data_dir/tokenizer.model` on the training splits; returns what was done.

    Nothing is trained if `config.tokenizer.path` names a model, if the one that is there was
    trained on the same data, or before all of the data sets to train on are prepared. Raises
    `BadInput` if there is one that was trained on other data and `overwrite` is False: models
    trained with it would lose their vocabulary.
    """
    settings, data_dir = config.tokenizer, Path(config.data_dir)
    if settings.path:
        return f"tokenizer: {settings.path}, {Tokenizer.load(settings.path).size} pieces"
    if missing := _missing(config, settings.train_on):
        return f"tokenizer: waits until {missing} is prepared"
    sets = [Prepared(data_dir / name) for name in settings.train_on]
    path, card = data_dir / "tokenizer.model", _card({"size": settings.size}, sets)
    if path.exists() and not overwrite:
        there = Tokenizer.load(path)
        _refuse_other(path, {"fingerprint": there.fingerprint} | card)
        return f"tokenizer: {path} is up to date, {there.size} pieces"
    schema: dict[str, dict[str, None]] = {}
    for prepared in sets:
        for domain, slots in prepared.manifest.get("schema", {}).items():
            schema.setdefault(domain, {}).update(dict.fromkeys(slots))
    symbols = target_symbols({domain: list(slots) for domain, slots in schema.items()})
    if "codec" in config:  # of words alone
        symbols = []
    if any(s.get("questions") for p in sets for s in p.manifest["splits"].values()):
        symbols += auxiliary_trees.symbols()
    try:
        model = train(_texts(sets), list(dict.fromkeys(symbols)), settings.size,
                      control=("<pad>",) * ("codec" in config))
    except RuntimeError as error:
        raise BadInput(
            f"no tokenizer of {settings.size} pieces can be trained ({error})",
            field="config.tokenizer.size",
        ) from error
    tokenizer = Tokenizer(model)
    with aside(path) as file:
        file.write_bytes(model)
    _write_card(path, {"fingerprint": tokenizer.fingerprint} | card)
    return f"tokenizer: {path}, {tokenizer.size} pieces, {tokenizer.fingerprint}"


def make_codec(config: ConfigDict, *, overwrite: bool = False) -> str:
    """Trains `data_dir/codec.safetensors` on conversations, as `make_tokenizer` does its own."""
    settings, data_dir = config.codec.to_dict(), Path(config.data_dir)
    if path := settings.pop("path"):
        return f"codec: {path}, {LogMelCodec.load(path).fingerprint}"
    if missing := _missing(config, names := settings.pop("train_on")):
        return f"codec: waits until {missing} is prepared"
    sets = [Prepared(data_dir / name) for name in names]
    path, card = data_dir / codec.FILE, _card(settings, sets)
    if path.exists() and not overwrite:
        there = LogMelCodec.load(path)
        _refuse_other(path, {"fingerprint": there.fingerprint} | card)
        return f"codec: {path} is up to date, {there.fingerprint}"
    most, heard = settings.pop("conversations"), []
    for data in sets:
        records = conversations.read(data.folder, _trained_on(data))
        for number in range(min(len(records), most)):
            record = records[number]
            heard += [speech.decode(c.audio) for c in (record.agent, record.user)]
    start = time.perf_counter()
    made = LogMelCodec.train(heard, **settings)
    made.save(path)
    _write_card(path, {"fingerprint": made.fingerprint} | card)
    return (f"codec: {path}, {made.codebooks} codebooks of {made.card}, {made.fingerprint}\n"
            f"  {time.perf_counter() - start:.1f} s")


def make_frames(config: ConfigDict, processes: int) -> None:
    """Makes the frames of all sets that the stages train on and that are evaluated, if they are
    there; prints a line for each."""
    names = {s["data"] for stage in config.stages.values() for b in stage.batches.values()
             for s in b.sources} | {s["data"] for s in config.evaluation.pairs}
    for name in sorted(names):
        if _missing(config, [name]):
            print(f"{name}: waits until it is prepared")
            continue
        print(frame_trees.prepare(Path(config.data_dir) / name, frame_trees.Making.of(config),
                                  processes=processes, progress=command.progress), flush=True)


def _missing(config: ConfigDict, names: Iterable[str]) -> str:
    there = lambda name: (Path(config.data_dir) / name / MANIFEST).exists()
    return ", ".join(name for name in names if not there(name))


def _card(settings: dict, sets: list[Prepared]) -> dict:
    """What a tokenizer or a codec is made from."""
    return settings | {"trained_on": {p.manifest["name"]: p.fingerprint for p in sets}}


def _write_card(path: Path, card: dict) -> None:
    write_text(path.with_suffix(".json"), json.dumps(card, indent=1))


def _refuse_other(path: Path, card: dict) -> None:
    """Raises `BadInput` unless what is at `path` was made as `card` says."""
    try:
        before = json.loads(path.with_suffix(".json").read_text("utf-8"))
    except (OSError, ValueError):
        before = None
    if before != card:
        raise BadInput(
            f"the {path.stem} was made with another size or other data",
            file=path,
            mend="--overwrite trains it again; models that use it must be too",
        )


def _texts(sets: list[Prepared]) -> Iterator[str]:
    """What a tokenizer will see: turns as they stand in a history, and targets.

    Of each data set the split `train`, or its first one: values of a test are not to be known.
    """
    for prepared in sets:
        split = _trained_on(prepared)
        if prepared.manifest.get("kind") == conversations.KIND:
            yield from frame_trees.texts(prepared.folder, split)
            continue
        for dialogue in prepared.dialogues(split):
            for turn in dialogue.turns:
                yield f"{turn.speaker.upper()}: {turn.text}"
                if turn.state is not None:
                    yield target(turn.text, turn.state)
            yield from auxiliary_trees.texts(dialogue)


def _trained_on(prepared: Prepared) -> str:
    return "train" if "train" in prepared.splits else prepared.splits[0]


def _summary(prepared: Prepared, work: dict[str, float], seconds: float) -> str:
    manifest = prepared.manifest
    splits = ", ".join(
        f"{split} {s['dialogues']} dialogues {s['turns']} turns "
        f"{sum(s['hours'].values()):.2f} h"
        + _asked(s.get("questions"))
        for split, s in manifest["splits"].items()
    )
    size = sum(x["bytes"] for s in manifest["splits"].values() for x in s["shards"]) / 1e6
    line = f"{manifest['name']}: {splits}; {size:.1f} MB, {manifest['fingerprint']}"
    left_out = manifest["quarantine"]
    if left_out["records"]:
        reasons = ", ".join(f"{c['records']} {why}" for why, c in left_out["by_reason"].items())
        line += f"\n  {left_out['records']} left out, see quarantine.jsonl: {reasons}"
    if not work:
        return f"{line}\n  up to date"
    spent = ", ".join(f"{kind} {s:.1f} s" for kind, s in sorted(work.items()))
    return f"{line}\n  {seconds:.1f} s; work of all processes: {spent}"


def _asked(questions: dict[str, int] | None) -> str:
    if not questions:
        return ""
    ambiguous = questions.get("ambiguous: True", 0)
    return f" {sum(questions.values())} questions, {ambiguous} of them ambiguous"


def main(argv: list[str]) -> None:
    del argv
    if _FEATURES.value:
        encode_features(_CONFIG.value, _WORKDIR.value, _STAGE.value, only=_ONLY.value)
        return
    processes = workers.cores() if _PROCESSES.value is None else _PROCESSES.value
    run(_CONFIG.value, only=_ONLY.value, processes=processes, overwrite=_OVERWRITE.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    command.run(main)
