"""Published systems of spoken dialogue state tracking, presets of configs/joint_dst.py.

    python -m speechdst.train --config=configs/joint_dst.py:gemma3_1b --workdir=runs/gemma3_1b

They go over checkpoints that are downloaded beforehand to checkpoints/NAME (see `c.pretrained`);
`--dry_run` counts their parameters without them. "Ours" marks what a paper leaves unknown.
WavLM is fed raw waveforms, as the released code does, and a frozen one may be run once, beforehand
(`prepare --features`, then --config.stages.joint.encoded=True).
"""

from dataclasses import asdict
from math import prod

from ml_collections import ConfigDict

from configs.joint_dst import batch, optimizer, prepared, transformer
from speechdst.hf import wavlm
from speechdst.hf.decoders import decoder_config
from speechdst.hf.published import decoder
from speechdst.models.audio_encoder.wavlm import WAVLM_LARGE

FOLDERS = {"gemma3-1b": "gemma-3-1b-it", "gemma3-4b": "gemma-3-4b-it",
           "gemma3-12b": "gemma-3-12b-it", "gemma2-9b": "gemma-2-9b-it", "olmo-1b": "OLMo-1B-hf",
           "olmo2-1b": "OLMo-2-0425-1B"}


def model(llm, *, connector, lora_rank, text_encoder=True):
    """WavLM-large, a connector of width 1024, a published LLM with LoRA on all linear layers."""
    llm = asdict(decoder(llm))
    width = llm["transformer"]["width"]
    llm["transformer"] |= dict(lora_rank=lora_rank, lora_alpha=float(lora_rank), remat=True)
    return ConfigDict(dict(
        encoder=asdict(WAVLM_LARGE) | dict(kind="wavlm", normalize=False, remat=True),
        connector=dict(connector, inputs=1024, outputs=width),
        # As large as the connector's Transformer; it reads the LLM's own embedding (the released
        # code can do either), with its default masking rate (ours: the paper does not say).
        text_encoder=dict(transformer=transformer(1024, 4, 4), vocabulary=llm["vocabulary"],
                          outputs=1024, mask_rate=0.5, llm_width=width) if text_encoder else None,
        decoder=llm, ctc=False, dtype="bfloat16", attention=""))


def pretrained(c, llm, *, speech, text, kind, agent="text", beam, max_new):
    """Data, checkpoints and decoding: `speech` and `text` are names in `c.prepare`."""
    folder = f"checkpoints/{FOLDERS[llm]}"
    c.pretrained = dict(encoder="checkpoints/wavlm-large", decoder=folder)
    c.tokenizer = dict(size=0, train_on=(), path=folder)
    own = lambda corpus, **kw: dict(prepared(corpus, dict(train={}, **kw), speech="own",
                                             root=f"data/raw/{corpus}", held_out_voices=()),
                                    features="none", agent_speech=agent == "speech")
    c.prepare = dict(librispeech=own("librispeech"), common_voice=own("common_voice"),
                     **{name: own(name, dev={}, test={}) for name in speech + text})
    c.data_dir = "data/published"
    c.order = ("asr", "joint")
    c.log_every, c.save_every = 50, 1000
    c.evaluation.update(data=speech[0], split="dev", beam=beam, max_new=max_new,
                        context=dict(kind=kind, path="speech", agent=agent))


def published_batch(loss, data, **kwargs):
    """Rows of 8 x 1024 positions a step (ours) and the released code's filters: 0.6-30 s of
    speech, more than 10 tokens."""
    made = batch(loss, data, rows=8, positions=1024, **kwargs)
    made["context"] |= dict(min_seconds=0.6, min_tokens=11)
    return made


def published_optimizer(lr, warmup, end_ratio, weight_decay=0.0):
    return optimizer(lr, warmup) | dict(end_ratio=end_ratio, clip=5.0, weight_decay=weight_decay,
                                        b2=0.999)


def shrink(c, encoder, llm):
    """A published recipe over other towers, by the values of their config.json: for trials."""
    llm = asdict(decoder_config(llm))
    width, small = llm["transformer"]["width"], transformer(16, 1, 2)
    llm["transformer"].update(lora_rank=4, lora_alpha=4.0)
    hears = asdict(wavlm.config(encoder)) | dict(kind="wavlm", normalize=False)
    c.model.update(encoder=ConfigDict(hears), decoder=ConfigDict(llm))
    c.model.connector.update(transformer=small, inputs=hears["width"], outputs=width)
    if c.model.text_encoder:
        c.model.text_encoder.update(transformer=small, outputs=16, llm_width=width, vocabulary=0)


def joint_paper(c, llm):
    """arXiv 2511.22503: SpokenWOZ speech and MultiWOZ text (A2 of its table: with Gemma-3-1B-it
    36.3 fuzzy JGA on SpokenWOZ dev and 19.0 on speech-aware MultiWOZ dev, 36.1 and 15.1 without
    the text). Stage 1 of the paper adds Fisher and VoxPopuli (as `asr_manifest`). Unknown, hence
    ours: batch size, text weight (the code's 0.5), mask rate, shape of the schedules."""
    pretrained(c, llm, speech=("spokenwoz",), text=("multiwoz",), kind="single", beam=2,
              max_new=500)
    c.prepare.multiwoz.update(speech="none", agent_speech=False)
    c.model = model(llm, lora_rank=32, connector=dict(
        transformer=transformer(1024, 4, 4), strides=(3, 2), taps=7, stack=0))
    c.stages = dict(
        asr=dict(steps=100_000, trainable=(r"^encoder", r"^connector"), weights=dict(speech=1.0),
                 optimizer=published_optimizer(2e-4, 1000, 0.01),
                 batches=dict(speech=published_batch("speech", ("librispeech", "common_voice"),
                                                     kind="asr", path="speech"))),
        joint=dict(steps=60_000, trainable=(r"^connector", r"^text_encoder", r"lora"),
                   weights=dict(speech=1.0, text=0.5),
                   optimizer=published_optimizer(5e-5, 1000, 0.4) | dict(decay="linear"),
                   encoded=False,
                   batches=dict(
                       speech=published_batch("speech", ("spokenwoz",), kind="single",
                                              path="speech"),
                       text=published_batch("text", ("spokenwoz", "multiwoz"), kind="single",
                                            path="words"))))


def stacking_paper(c, llm, lora_rank):
    """arXiv 2506.08633, SpokenWOZ: the connector stacks six frames. JGA on test: OLMo-1B 34.66,
    Gemma-2-9B-it 38.76 exact and 42.17 fuzzy. Stage 1 of the paper is Fisher, LibriSpeech and
    How2; its LoRA dropout of 0.1 and its instruction prefix are left out; rows of 8 x 1024
    positions hold about its effective batch of 64-96 turns."""
    pretrained(c, llm, speech=("spokenwoz",), text=(), kind="single", beam=2, max_new=400)
    c.model = model(llm, lora_rank=lora_rank, text_encoder=False, connector=dict(
        transformer=transformer(1024, 2, 16), strides=(), taps=0, stack=6))
    c.stages = dict(
        asr=dict(steps=80_000, trainable=(r"^encoder", r"^connector"), weights=dict(speech=1.0),
                 optimizer=published_optimizer(5e-5, 2000, 0.4, 1e-6),
                 batches=dict(speech=published_batch("speech", ("librispeech",), kind="asr",
                                                     path="speech"))),
        joint=dict(steps=30_000, trainable=(r"^connector", r"lora"), weights=dict(speech=1.0),
                   optimizer=published_optimizer(5e-5, 500, 0.4, 1e-6), encoded=False,
                   batches=dict(speech=published_batch("speech", ("spokenwoz",), kind="single",
                                                       path="speech"))))


def spoken_history_paper(c):
    """arXiv 2510.09424, SpokenWOZ: every turn of both speakers is heard. JGA dev/test 36.89/36.29
    with OLMo-2-1B. The paper's encoder is w2v-BERT; here WavLM-large, so its figure is not one to
    expect. Its hyper-parameters are not published: those of arXiv 2511.22503 stand in (ours)."""
    pretrained(c, "olmo2-1b", speech=("spokenwoz",), text=(), kind="spoken_history",
              agent="speech", beam=5, max_new=400)
    c.model = model("olmo2-1b", lora_rank=16, text_encoder=False, connector=dict(
        transformer=transformer(1024, 1, 4), strides=(3, 2), taps=7, stack=0))
    speech = published_batch("speech", ("spokenwoz",), kind="spoken_history", path="speech")
    # A dialogue with all its speech and states is long: one to a row.
    speech |= dict(rows=4, positions=8192, context=speech["context"] | dict(agent="speech"))
    c.stages = dict(
        asr=dict(steps=100_000, trainable=(r"^encoder", r"^connector"), weights=dict(speech=1.0),
                 optimizer=published_optimizer(2e-4, 1000, 0.01),
                 batches=dict(speech=published_batch("speech", ("librispeech", "common_voice"),
                                                     kind="asr", path="speech"))),
        joint=dict(steps=60_000, trainable=(r"^connector", r"lora"), weights=dict(speech=1.0),
                   optimizer=published_optimizer(5e-5, 1000, 0.4) | dict(decay="linear"),
                   encoded=False, batches=dict(speech=speech)))


# Behind a preset "@" and a topology: rows of a step for every chip, and over how many chips the
# weights of a stage are split, if over any. While only LoRA and small towers train, little has to
# be added up between chips, and splitting frozen weights means gathering them anew in every layer:
# they are split only as far as they would not fit otherwise. `speechdst.compile` made the figures
# of BUILD.md from it.
TOPOLOGIES = {
    "gemma3_1b": {"v5e:4x4": (2, {}), "v5e:8x8": (2, {}), "v5e:16x16": (2, {})},
    "gemma3_4b": {"v5e:8x8": (2, {"asr": 2})},
    "gemma3_12b": {"v5p:4x4x4": (4, {}), "v6e:8x8": (2, {"asr": 2})},
}


def placed(c, preset, topology):
    """Rows and mesh for a topology of `TOPOLOGIES`."""
    there = TOPOLOGIES.get(preset, {})
    if topology not in there:
        raise ValueError(f"preset {preset} has no settings for {topology!r}, "
                         f"there are {', '.join(there) or 'none'}")
    rows, split = there[topology]
    for name, stage in c.stages.items():
        if name in split:
            stage.mesh = dict(c.mesh, fsdp=split[name])
        for each in stage.batches.values():
            each.rows = rows * prod(map(int, topology.split(":")[1].split("x")))


PRESETS = dict(
    gemma3_1b=lambda c: joint_paper(c, "gemma3-1b"),
    gemma3_4b=lambda c: joint_paper(c, "gemma3-4b"),
    gemma3_12b=lambda c: joint_paper(c, "gemma3-12b"),
    olmo_1b=lambda c: joint_paper(c, "olmo-1b"),
    stacking_olmo_1b=lambda c: stacking_paper(c, "olmo-1b", 16),
    stacking_gemma2_9b=lambda c: stacking_paper(c, "gemma2-9b", 8),
    spoken_history_olmo2_1b=spoken_history_paper)
