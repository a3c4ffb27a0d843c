"""Preparation: a corpus -> a folder of spoken, stored, measured dialogues (see `prepared.py`).

All dialogues are read first (they only say where their audio is), cut into shards of `SHARD`
dialogues in the order of reading, and the shards are written by worker processes (`shard.py`) into
`<name>.partial`, which becomes `<name>` when everything is there. An interrupted preparation goes
on where it stopped: a shard is written anew only if its dialogues, the options or the versions of
the libraries have changed. The same corpus, options and versions give the same bytes.
"""

import collections
import dataclasses
import hashlib
import importlib.metadata
import inspect
import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from pathlib import Path

import speechdst
from speechdst.data import corpora, shard, speech, tts
from speechdst.data.augment import Augment
from speechdst.data.dialogue import BadInput, Dialogue
from speechdst.data.prepared import FORMAT, MANIFEST, Prepared

SHARD = 64  # dialogues
LIBRARIES = ("numpy", "scipy", "librosa", "soundfile", "soxr", "espeakng-loader", "array-record")
_OWN = ("split", "augment")  # options of a split that are not the reader's

Progress = Callable[[Iterable, int, str], Iterator]
"""Shows how far an iterable of `total` shards of a data set is: (iterable, total, name)."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What one data set is made of and how: an entry of `config.prepare`.

    corpus           a name of `corpora.CORPORA`
    root             its folder
    splits           split -> options of the corpus's reader; besides these `split`, the corpus's
                     own split to read (the same name if not given), and `augment` for this split
    speech           "own" recordings, "espeak" or "module:function" synthesis, "none": text only
    voices           how many voices synthesis draws from, in held-out splits and in the others
    held_out_voices  splits that are spoken by voices not heard in the others
    agent_speech     agent turns are heard as well, not only user turns
    augment          of waveforms, see `augment.Augment`
    features         "log_mel" or "none", stored beside the audio
    keep_audio       False stores the features alone
    seed             of voices and augmentation
    limit            most dialogues of a split, 0: all
    """

    corpus: str
    splits: Mapping[str, Mapping]
    root: str = ""
    speech: str = "own"
    voices: int = 12
    held_out_voices: tuple[str, ...] = ()
    agent_speech: bool = False
    augment: Mapping = dataclasses.field(default_factory=dict)
    features: str = "log_mel"
    keep_audio: bool = True
    seed: int = 0
    limit: int = 0

    @classmethod
    def parse(cls, name: str, given: Mapping) -> "Options":
        """Options from a (nested) mapping; raises `BadInput` naming the field that is wrong."""
        given = _plain(given)
        where = f"config.prepare.{name}"
        known = {f.name: f for f in dataclasses.fields(cls)}
        if unknown := sorted(set(given) - set(known)):
            raise BadInput("unknown option", field=f"{where}.{unknown[0]}",
                           mend=f"there are {', '.join(known)}")  # fmt: skip
        for field in ("corpus", "splits"):
            if not given.get(field):
                raise BadInput("missing", field=f"{where}.{field}")
        for field, value in given.items():
            default = known[field].default
            if isinstance(default, bool | int | str) and type(value) is not type(default):
                raise BadInput(f"{value!r}, expected {type(default).__name__}",
                               field=f"{where}.{field}")  # fmt: skip
        options = cls(**given)
        try:
            options._check()
        except BadInput as bad:
            raise BadInput(bad.problem, field=f"{where}.{bad.field}", mend=bad.mend) from bad
        return options

    def _check(self) -> None:
        corpora.get(self.corpus)
        if self.features not in ("log_mel", "none"):
            raise BadInput(f"{self.features!r}, expected log_mel or none", field="features")
        if self.speech not in ("own", "none"):
            tts.synthesizer(self.speech)
            if self.voices < 1 + self.agent_speech:
                raise BadInput(f"{self.voices}, expected at least {1 + self.agent_speech}",
                               field="voices")  # fmt: skip
        if self.speech != "none" and self.features == "none" and not self.keep_audio:
            raise BadInput("neither audio nor features would be kept", field="keep_audio",
                           mend="speech = none prepares the text alone")  # fmt: skip
        for split, options in self.splits.items():
            if not re.fullmatch(r"[A-Za-z0-9_]+", split):
                raise BadInput(f"the name {split!r} is not made of letters, digits and _",
                               field="splits")  # fmt: skip
            Augment(options.get("augment", self.augment))
        if unknown := sorted(set(self.held_out_voices) - set(self.splits)):
            raise BadInput(f"no split {unknown[0]!r}, there are {', '.join(self.splits)}",
                           field="held_out_voices")  # fmt: skip

    def spoken(self, split: str) -> shard.Spoken:
        """How the turns of `split` get their audio."""
        synthetic = self.speech not in ("own", "none")
        held_out = split in self.held_out_voices
        return shard.Spoken(
            self.speech, tuple(tts.voices(self.seed, self.voices, held_out) if synthetic else ()),
            self.agent_speech, dict(self.splits[split].get("augment", self.augment)),
            self.features, self.keep_audio, self.seed)  # fmt: skip

    def read(self, split: str) -> Iterator[Dialogue | BadInput]:
        """The dialogues of `split` as the corpus has them, at most `limit`."""
        options = dict(self.splits[split])
        own = options.get("split", split)
        taken = 0
        reader = {k: v for k, v in options.items() if k not in _OWN}
        for record in corpora.read(self.corpus, self.root, own, **reader):
            if isinstance(record, Dialogue):
                record = dataclasses.replace(record, split=split)
                taken += 1
            yield record
            if self.limit and taken == self.limit:
                return

    def schema(self) -> dict[str, list[str]] | None:
        """The schema of the corpus; over all splits, as their options may change it."""
        function = corpora.get(self.corpus).schema
        takes = inspect.signature(function).parameters
        merged: dict[str, list[str]] = {}
        for options in self.splits.values():
            schema = function(Path(self.root), **{k: v for k, v in options.items() if k in takes})
            if schema is None:
                return None
            for domain, slots in schema.items():
                merged[domain] = list(dict.fromkeys([*merged.get(domain, ()), *slots]))
        return merged

    def portable(self) -> dict:
        """For the manifest: without what only this machine knows (folders above the corpus)."""
        return json.loads(json.dumps(_without_folders(dataclasses.asdict(self))))


def prepare(
    name: str, options: Options, data_dir: str | Path, *, processes: int = 1,
    overwrite: bool = False, progress: Progress | None = None,
) -> tuple[Prepared, dict[str, float]]:  # fmt: skip
    """Prepares the data set `name` in `data_dir/name`, or finds it there already.

    Returns it, and the seconds of work by kind, over all processes ({} if nothing was to be done).

    Raises:
      BadInput: the corpus cannot be read, the disk is full, a split has no dialogue that can be
        used, or the folder holds a data set made otherwise and `overwrite` is False.
    """
    folder = Path(data_dir) / name
    if not overwrite:
        _refuse_other_options(folder, options)
    quarantine: list[dict] = []
    tasks = list(_tasks(name, options, _partial(folder), quarantine))
    source = _digest(task.key for task in tasks)
    if (folder / MANIFEST).exists() and not overwrite:
        there = Prepared(folder)
        if there.manifest["source"]["fingerprint"] != source:
            raise BadInput("the data set was made from another state of the corpus, or with other "
                           "versions of the libraries", file=folder,
                           mend="--overwrite prepares it again")  # fmt: skip
        for split in there.splits:
            there.dialogues(split)[0]  # raises if shards are missing or cut off
        return there, {}
    partial = _partial(folder)
    with shard.clear_disk_errors(Path(data_dir)):
        _begin(partial, options, overwrite)
        run = _run(tasks, processes)
        for _ in progress(run, len(tasks), name) if progress else run:
            pass
        notes = {task.file: shard.finished(task) for task in tasks}
        _finish(name, options, partial, tasks, notes, quarantine, source)
        _replace(partial, folder)
    clock: collections.Counter[str] = collections.Counter()
    for note in notes.values():
        clock.update(note["seconds"])
    return Prepared(folder), dict(clock)


def _refuse_other_options(folder: Path, options: Options) -> None:
    for path in (folder / MANIFEST, _partial(folder) / ".progress" / "options.json"):
        if not path.exists():
            continue
        before = json.loads(path.read_text("utf-8"))
        before = Prepared(folder).manifest["options"] if path.name == MANIFEST else before
        now = options.portable()
        for field in now:
            if now[field] != before.get(field):
                raise BadInput(f"already prepared with {field} = {before.get(field)!r}, now it is "
                               f"{now[field]!r}", file=path.parent, field=field,
                               mend="--overwrite prepares it again, another name keeps both")  # fmt: skip


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _tasks(
    name: str, options: Options, partial: Path, quarantine: list[dict]
) -> Iterator[shard.Task]:
    """The shards to write; what the reader could not use goes to `quarantine`."""
    strip = f"{Path(options.root)}/" if options.root else ""
    versions = {library: _version(library) for library in LIBRARIES}
    for split in options.splits:
        dialogues: list[Dialogue] = []
        for record in options.read(split):
            if isinstance(record, Dialogue):
                dialogues.append(record)
            else:
                entry = shard.quarantined(record, options.corpus, split, strip)
                left_out = re.search(r"(\d+) turns left out", record.problem)
                quarantine.append(entry | {"turns": int(left_out[1]) if left_out else None})
        if not dialogues:
            first = [q["problem"] for q in quarantine if q["split"] == split][:1]
            raise BadInput("no dialogue can be read" + f", the first problem: {first}" * bool(first),
                           file=options.root, record=f"{name}/{split}")  # fmt: skip
        spoken = options.spoken(split)
        made_by = f"{FORMAT} {versions} {split} {spoken}"
        count = -(-len(dialogues) // SHARD)
        for i, part in enumerate(_batched(dialogues, SHARD)):
            file = f"{split}-{i:05d}-of-{count:05d}.arrayrecord"
            content = (_content(d, strip) for d in part)
            key = _digest(itertools.chain([made_by], content))
            yield shard.Task(partial, file, key, split, tuple(part), spoken, strip)


def _content(dialogue: Dialogue, strip: str) -> str:
    """Everything that a dialogue as read stands for, its audio by path within the corpus and size."""
    sizes = {}
    for turn in dialogue.turns:
        if turn.audio is not None:
            path = turn.audio.path
            sizes[path] = os.path.getsize(path) if os.path.exists(path) else None
    text = f"{dialogue!r} {sizes}"
    return text.replace(strip, "") if strip else text


def _begin(partial: Path, options: Options, overwrite: bool) -> None:
    """Makes the folder; what an earlier run with other options left goes if `overwrite`."""
    path = partial / ".progress" / "options.json"
    text = json.dumps(options.portable())
    if overwrite and partial.exists() and not (path.exists() and path.read_text("utf-8") == text):
        shutil.rmtree(partial)
    shard.write_text(path, text)
    for left in path.parent.glob("*.tmp"):
        left.unlink()


def _run(tasks: list[shard.Task], processes: int) -> Iterator[str]:
    """Writes the shards that are not there yet; yields the name of each, finished before or now."""
    todo = []
    for task in tasks:
        if shard.finished(task):
            yield task.file
        else:
            todo.append(task)
    if processes <= 1 or len(todo) <= 1:
        yield from map(shard.write, todo)
        return
    # spawn: a fork of a process in which JAX or Grain run threads may hang.
    pool = ProcessPoolExecutor(min(processes, len(todo)), multiprocessing.get_context("spawn"),
                               initializer=_begin_worker)  # fmt: skip
    try:
        for future in as_completed([pool.submit(shard.write, task) for task in todo]):
            yield future.result()
    except BrokenExecutor as error:
        raise BadInput("a worker process was killed, perhaps for want of memory",
                       mend="run the same command again with fewer --processes") from error  # fmt: skip
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # shards under way are finished


def _begin_worker() -> None:
    """A worker leaves Ctrl-C to its parent, and goes when the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _finish(name, options, partial, tasks, notes, quarantine, source) -> None:
    """Writes turns, quarantine and manifest from the shards' notes."""
    for task in tasks:
        quarantine += notes[task.file]["quarantine"]
    turns = [line for task in tasks for line in notes[task.file]["turns"]]
    shard.write_text(partial / "turns.jsonl", _lines(turns))
    shard.write_text(partial / "quarantine.jsonl", _lines(quarantine))
    splits, ontology = {}, {}
    for split in options.splits:
        parts = [(t.file, notes[t.file]) for t in tasks if t.split == split]
        splits[split] = _summary(parts, [t for t in turns if t["split"] == split])
        ontology[split] = _merge(note["values"] for _, note in parts)
        if not splits[split]["dialogues"]:
            first = next(q for q in quarantine if q["split"] == split)
            raise BadInput(f"none of the dialogues can be used; the first: {first['problem']}",
                           file=partial / "quarantine.jsonl", record=first["record"])  # fmt: skip
    schema = options.schema()
    if schema is None:  # then what its states hold
        schema = {d: sorted(s) for d, s in _merge(ontology.values()).items()}
    records = [r for task in tasks for r in notes[task.file]["records"]]
    manifest = {
        "format": FORMAT,
        "name": name,
        "corpus": options.corpus,
        "fingerprint": _digest(records),
        "options": options.portable(),
        "source": {"name": Path(options.root).name if options.root else "", "fingerprint": source},
        "versions": {"speechdst": speechdst.__version__} | {k: _version(k) for k in LIBRARIES},
        "features": None if "none" in (options.features, options.speech) else {
            "kind": options.features, "channels": speech.MELS, "type": "float16",
            "window_samples": speech.WINDOW, "hop_samples": speech.HOP,
        },
        "schema": schema,
        "splits": splits,
        "ontology": ontology,
        "quarantine": _reasons(quarantine),
    }  # fmt: skip
    shard.write_text(partial / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _summary(parts: list[tuple[str, dict]], turns: list[dict]) -> dict:
    """What the manifest says of one split."""
    hours = lambda who: round(sum(t["seconds"] for t in turns if t["speaker"] == who) / 3600, 6)
    return {
        "shards": [{"file": file, "records": len(note["records"]), "bytes": note["bytes"],
                    "sha256": note["sha256"]} for file, note in parts],
        "dialogues": sum(len(note["records"]) for _, note in parts),
        "turns": len(turns),
        "user_turns": sum(t["speaker"] == "user" for t in turns),
        "hours": {"user": hours("user"), "agent": hours("agent")},
        "voices": sorted({t["voice"] for t in turns if t["voice"]}),
    }  # fmt: skip


def _merge(ontologies: Iterable[dict]) -> dict[str, dict[str, list[str]]]:
    merged: dict[str, dict[str, set[str]]] = {}
    for ontology in ontologies:
        for domain, slots in ontology.items():
            for slot, values in slots.items():
                merged.setdefault(domain, {}).setdefault(slot, set()).update(values)
    return {d: {s: sorted(v) for s, v in sorted(ss.items())} for d, ss in sorted(merged.items())}


def _reasons(quarantine: list[dict]) -> dict:
    """How many records were left out, and by reason: the problem without what it quotes."""
    by_reason: dict[str, dict] = {}
    for entry in quarantine:
        reason = re.sub(r"'[^']*'|\"[^\"]*\"|\[[^]]*\]|\d+\.\d+", "…", entry["problem"].split(": ")[0])
        counts = by_reason.setdefault(reason, {"records": 0, "turns": 0})
        counts["records"] += 1
        counts["turns"] += entry["turns"] or 0
    return {"records": len(quarantine), "by_reason": dict(sorted(by_reason.items()))}


def _replace(partial: Path, folder: Path) -> None:
    """The finished folder takes its name; the one before it, if any, goes only then."""
    old = folder.with_name(f"{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(folder / ".progress")
    shutil.rmtree(old, ignore_errors=True)


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:32]


def _lines(records: list[dict]) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)


def _batched(items: list, size: int) -> Iterator[list]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _version(library: str) -> str:
    return importlib.metadata.version(library)


def _plain(value):
    """Plain dicts, tuples and scalars out of ConfigDicts and the like."""
    if hasattr(value, "items"):
        return {k: _plain(v) for k, v in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _without_folders(value):
    if isinstance(value, dict):
        return {k: Path(v).name if k == "root" and v else _without_folders(v)
                for k, v in value.items()}  # fmt: skip
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
