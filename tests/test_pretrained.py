"""A published recipe, shrunk, over checkpoints in Hugging Face's layout: in, trained, out."""

import json
import runpy
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
import test_commands
from flax import nnx
from safetensors.numpy import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from speechdst import prepare, sharding
from speechdst.api import DialogueTracker
from speechdst.config import model_config
from speechdst.data.dialogue import SAMPLE_RATE, BadInput
from speechdst.data.tts import espeak
from speechdst.export import load
from speechdst.hf import decoders as hf_decoders
from speechdst.hf import encoders as hf_encoders
from speechdst.hf import towers
from speechdst.models.audio_encoder.wavlm import WavLM
from speechdst.models.decoder import Decoder
from speechdst.training import state

VOCABULARY = 320
WAVLM = dict(model_type="wavlm", hidden_size=24, num_attention_heads=3, num_hidden_layers=2,
             intermediate_size=40, conv_dim=[8] * 7, num_feat_extract_layers=7,
             num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
             feat_extract_norm="layer", do_stable_layer_norm=True)
GEMMA = dict(model_type="gemma3_text", hidden_size=24, num_hidden_layers=3, num_attention_heads=3,
             num_key_value_heads=1, head_dim=8, intermediate_size=40, vocab_size=VOCABULARY,
             tie_word_embeddings=True, query_pre_attn_scalar=8, sliding_window=16,
             sliding_window_pattern=3, rope_theta=1e4, rope_local_base_freq=100.0,
             bos_token_id=0, eos_token_id=1)
CONFIG = '''
import importlib.util
from configs import published
from speechdst.hf.decoders import read_config

def get_config(folder):
    spec = importlib.util.spec_from_file_location("recipe", "configs/joint_dst.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    c = recipe.get_config("gemma3_1b")
    recipe.simulated(c, train=8, test=2, text=8)
    c.order = ("joint",)
    c.data_dir, c.tokenizer.path = folder + "/data", folder + "/llm"
    c.pretrained.update(encoder=folder + "/wavlm", decoder=folder + "/llm")
    published.shrink(c, *(read_config(f"{folder}/{tower}") for tower in ("wavlm", "llm")))
    data = dict(speech=("simulated",), text=("simulated", "simulated_text"))
    for stage in c.stages.values():
        stage.steps = 2
        for name, batch in stage.batches.items():
            batch.update(rows=1, positions=1024, sources=tuple(
                dict(data=d, split="train", weight=1.0) for d in data[name]))
            batch.context.min_tokens = 0
    recipe.soon(c)
    c.evaluation.update(limit=1, max_new=8)
    return c
'''


def checkpoints(folder: Path) -> None:
    """Tiny checkpoints with drawn weights, as they would be downloaded."""
    for name, values, made, save, config in (
            ("wavlm", WAVLM, WavLM, hf_encoders.save, hf_encoders.FAMILIES["wavlm"].config(WAVLM)),
            ("llm", GEMMA, Decoder, hf_decoders.save, hf_decoders.decoder_config(GEMMA))):
        (folder / name).mkdir()
        save(folder / name, state.flatten(nnx.state(made(config, nnx.Rngs(0)))), config, values)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(["a table in the centre, a cheap hotel"], trainers.BpeTrainer(
        vocab_size=VOCABULARY - 4, special_tokens=["<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    made.save(str(folder / "llm/tokenizer.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints, prepared data and a run of the joint stage, straight from the checkpoints."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "recipe.py").write_text(CONFIG)
    checkpoints(folder)
    prepare.run(runpy.run_path(folder / "recipe.py")["get_config"](str(folder)), processes=0)
    command(folder, "train", f"--workdir={folder}/run")
    return folder


def command(folder, name, *arguments, **kwargs):
    return test_commands.command(name, f"--config={folder}/recipe.py:{folder}", *arguments,
                                 folder=folder, config=False, **kwargs)


@pytest.fixture(scope="module")
def exported(folder):
    """The run's model, its LoRA merged and apart: two folders."""
    made = {"merged": "--merge", "apart": "--nomerge"}
    for name, merge in made.items():
        command(folder, "export", f"--workdir={folder}/run", f"--out={folder / name}", merge)
    return [folder / name for name in made]


def test_trained_exported_and_loaded_back(folder, exported):
    for out in exported:
        assert json.loads((out / "decoder/config.json").read_text())["model_type"] == "gemma3_text"
        assert json.loads((out / "encoder/config.json").read_text())["model_type"] == "wavlm"
        names = set(load_file(folder / "llm/model.safetensors"))
        assert set(load_file(out / "decoder/model.safetensors")) == names
        rest = {name.split("/")[0] for name in load_file(out / "model.safetensors")}
        assert rest == {"connector", "text_encoder"}
    assert (folder / "apart/adapter/adapter_model.safetensors").exists()
    assert not (folder / "merged/adapter").exists()
    card = (folder / "merged/README.md").read_text()
    for expected in ("started from `wavlm`", "started from `llm`", "LoRA of rank 4",
                     "simulated/train: 8 dialogues", "simulated_text/train (text)"):
        assert expected in card, card


def test_frozen_weights_are_the_checkpoints(folder, exported):
    """What no stage trains comes out bit for bit as it went in (in bfloat16, as it is kept)."""
    out = exported[1]
    before = load_file(folder / "llm/model.safetensors")
    for name, value in load_file(out / "decoder/model.safetensors").items():
        np.testing.assert_array_equal(value, before[name].astype(value.dtype), err_msg=name)


def test_apart_and_merged_decode_alike(folder, exported):
    merged, apart = map(load, exported)
    from speechdst.models.lora import merge

    lora = apart.config.decoder.transformer
    for path, value in merge(apart.params, lora.lora_rank, lora.lora_alpha).items():
        np.testing.assert_array_equal(np.asarray(merged.params[path], np.float32),
                                      np.asarray(value, np.float32), err_msg=path)
    assert any(np.asarray(x).any() for p, x in apart.params.items() if p.endswith("lora_b"))
    # And from a recording, cut into turns: the user on channel 0, the agent on channel 1.
    said = np.concatenate([espeak("a cheap hotel"), np.zeros(SAMPLE_RATE, np.int16)])
    silent = np.zeros_like(said)
    soundfile.write(folder / "call.wav", np.stack(
        [np.concatenate([said, silent, said]), np.concatenate([silent, said, silent])], 1),
        SAMPLE_RATE)
    turns = DialogueTracker(merged)(folder / "call.wav")
    assert [t.speaker for t in turns] == ["user", "agent", "user"]
    assert [t.state is None for t in turns] == [False, True, False]


@pytest.mark.slow
def test_the_commands_take_it_as_any_other(folder, exported):
    command(folder, "evaluate", f"--workdir={folder}/run", "--nooracle")
    assert (folder / "run/evaluation/simulated-test-speech/scores.json").exists()
    for out in exported:
        said = test_commands.command(
            "generate", f"--model={out}", "--turns=launch/smoke_turns.json", "--json",
            folder=folder, config=False).stdout
        assert len(said.splitlines()) == 3


@pytest.mark.slow
def test_the_checkpoints_encoder_runs_beforehand(folder):
    """`prepare --features` without a run; a stage that starts from the checkpoints finds it."""
    stored = command(folder, "prepare", "--features", "--only=simulated").stdout
    assert "simulated: encoded by" in stored
    out = command(folder, "train", "--config.stages.joint.encoded=True",
                  f"--workdir={folder}/encoded").stdout
    assert "trained:" in out


def test_a_missing_checkpoint_is_one_line(folder, tmp_path):
    result = command(folder, "train", f"--workdir={tmp_path}/run",
                     f"--config.pretrained.decoder={tmp_path}/none", check=False)
    assert result.returncode == 2, result.stdout + result.stderr
    assert not (tmp_path / "run/joint").exists()
    message = result.stderr.strip().splitlines()[-1]
    assert "no such folder" in message and "pretrained.decoder" in message


def test_foreign_checkpoints_are_refused(folder, tmp_path):
    c = runpy.run_path(folder / "recipe.py")["get_config"](str(folder))
    model = model_config(c.model, VOCABULARY)
    _, shapes = state.abstract(model)
    template = {path: jax.ShapeDtypeStruct(shapes[path].shape, "float32", sharding=where)
                for path, where in sharding.parameters(shapes, sharding.make_mesh()).items()}
    load = lambda **folders: towers.load(c.pretrained.to_dict() | folders, model, template)
    assert load()["decoder/embedding"].shape == (VOCABULARY, GEMMA["hidden_size"])
    with pytest.raises(BadInput, match="no speech encoder"):
        load(encoder=str(folder / "llm"))
    shutil.copytree(folder / "llm", tmp_path / "other")
    values = json.loads((tmp_path / "other/config.json").read_text())
    (tmp_path / "other/config.json").write_text(json.dumps(values | {"num_hidden_layers": 2}))
    with pytest.raises(BadInput, match="layers 2 instead of 3"):
        load(decoder=str(tmp_path / "other"))
