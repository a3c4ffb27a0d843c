"""The model card of an exported run: what it is made of, what it was trained on, its scores."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from speechdst.data.dialogue import BadInput
from speechdst.data.prepared import Prepared
from speechdst.metrics.scores import Scores, number


def card(config: ConfigDict, workdir: Path) -> str:
    """Markdown about a run, from its config, its prepared data and what `evaluate` wrote."""
    parts = [
        f"# {config.name}\n\nA spoken dialogue state tracker: speech in, dialogue state out, as "
        "JSON. Trained with speechdst.",
        "```python\nimport speechdst\ntracker = speechdst.load(\"THIS FOLDER\")\n"
        "for turn in tracker(\"call.wav\"): print(turn.speaker, turn.text, turn.state)\n```",
        "## Made of\n\n" + "\n".join(_towers(config)),
        "## Trained on\n\n" + "\n".join(_stages(config)),
        "## Scores\n\n" + _scores(workdir),
        "The licences of the checkpoints and corpora named here apply to this model as well.",
    ]
    return "\n\n".join(parts) + "\n"


def _towers(config: ConfigDict):
    for tower in ("encoder", "decoder"):
        folder = config.pretrained[tower]
        yield f"- {tower}: {f'started from `{Path(folder).name}`' if folder else 'from scratch'}"
    rank = config.model.decoder.transformer.lora_rank
    yield f"- LoRA of rank {rank} on all linear layers of the decoder" if rank else "- no LoRA"


def _stages(config: ConfigDict):
    for name in config.order:
        stage = config.stages[name]
        used = {}
        for batch in stage.batches.values():
            for source in batch.sources:
                heard = batch.context.path == "speech"
                key = (source["data"], source["split"])
                used[key] = used.get(key, False) or heard
        sets = "; ".join(_described(config, *key, heard) for key, heard in sorted(used.items()))
        yield f"- `{name}`, {stage.steps} steps: {sets}"


def _described(config: ConfigDict, data: str, split: str, heard: bool) -> str:
    what = f"{data}/{split}" + ("" if heard else " (text)")
    try:
        part = Prepared(Path(config.data_dir) / data).manifest["splits"][split]
    except BadInput:
        return what  # exported where the data is not
    hours = f", {part['hours']['user']:.1f} h of user speech" if heard else ""
    return f"{what}: {part['dialogues']} dialogues{hours}"


def _scores(workdir: Path) -> str:
    rows = []
    for file in sorted((workdir / "evaluation").glob("*/scores.json")):
        s = Scores.from_json(json.dumps(json.loads(file.read_text())[0]), file)
        wer = (s.word_errors or {}).get("rate")
        rows.append(f"| {file.parent.name} | {s.joint_goal_accuracy} | {number(s.slots.f1)} | "
                    f"{number(wer)} | {s.dialogues} |")
    if not rows:
        return "It was not evaluated."
    head = ("| evaluation | joint goal accuracy, % (95 % interval) | slot F1 | WER | dialogues |\n"
            "|---|---|---|---|---|\n")
    return head + "\n".join(rows)
