"""Joint speech and text training for spoken dialogue state tracking (arXiv 2511.22503).

    python -m speechdst.prepare  --config=configs/joint_dst.py:demo
    python -m speechdst.train    --config=configs/joint_dst.py:demo --workdir=runs/demo
    python -m speechdst.evaluate --config=configs/joint_dst.py:demo --workdir=runs/demo
    python -m speechdst.report   --run=runs/demo

Presets from scratch: tiny (seconds, for tests), demo (minutes, learns), multiwoz (real dialogues).
They have no pretrained parts, so their first stage trains the LLM on text and their ASR stage adds
a CTC loss to the encoder. Presets over downloaded checkpoints, with the figures that their papers
report in their docstrings below: gemma3_1b, gemma3_4b, gemma3_12b, olmo_1b (2511.22503),
stacking_olmo_1b, stacking_gemma2_9b (2506.08633), spoken_history_olmo2_1b (2510.09424); they have
stages `asr` and `joint` only. For instance:

    python -m speechdst.train --config=configs/joint_dst.py:gemma3_1b --workdir=runs/gemma3_1b

With rows and mesh for a TPU slice (see `TOPOLOGIES`): gemma3_1b@v5e:4x4.
"""

from math import prod

from ml_collections import ConfigDict


def transformer(width, layers, heads, **kwargs):
    return dict(width=width, layers=layers, heads=heads, **kwargs)


def model(width, layers, *, encoder_width, encoder_layers, connector_layers=1, lora_rank=8):
    """A from-scratch model: 25 encoder vectors/s, 12.5 soft positions/s."""
    heads = max(2, width // 32)
    return ConfigDict(dict(
        encoder=dict(transformer=transformer(encoder_width, encoder_layers, encoder_width // 32),
                     channels=80, strides=(2, 2, 1, 1), taps=(5, 5, 7, 7)),
        connector=dict(transformer=transformer(encoder_width, connector_layers, 4),
                       inputs=encoder_width, outputs=width, strides=(2, 1), taps=3, stack=0),
        text_encoder=dict(transformer=transformer(encoder_width, 1, 4),
                          vocabulary=0, outputs=encoder_width, mask_rate=0.1),
        decoder=dict(transformer=transformer(width, layers, heads, kv_heads=heads // 2,
                                             mlp_width=width * 3, gated=True, rms=True, bias=False,
                                             rope_theta=10_000.0, lora_rank=lora_rank,
                                             lora_alpha=float(lora_rank)),
                     # Tied embeddings are drawn small, as the output head needs them.
                     vocabulary=0, tied=True, embedding_scale=width**0.5),
        ctc=True, dtype="float32", attention=""))


def optimizer(lr, warmup, **kwargs):
    return dict(lr=lr, warmup=warmup, decay="cosine", end_ratio=0.05, clip=1.0,
                weight_decay=0.01, b2=0.98, multipliers=(), **kwargs)


def batch(loss, data, *, kind, path, rows, positions, split="train", spec_augment=None):
    """`buckets`: sizes of utterances, each a table of its own: more of them pad less, and are a
    larger program to compile."""
    return dict(loss=loss, rows=rows, positions=positions, block=128, buckets=4,
                context=dict(kind=kind, path=path, agent="text", min_seconds=0.1,
                             max_seconds=30.0, min_tokens=0),
                sources=tuple(dict(data=d, split=split, weight=1.0) for d in data),
                spec_augment=spec_augment or {})


def stages(context, *, speech, text, steps, rows, positions, lr):
    """`speech`: data sets that are heard; `text`: data sets of which only the text is used."""
    mask = dict(channel_masks=2, channel_width=12, time_masks=2, time_width=12)
    words = speech + text
    return ConfigDict(dict(
        text=dict(
            steps=steps[0], trainable=(r"^decoder/(?!.*lora)",), weights=dict(text=1.0),
            optimizer=optimizer(lr, 50),
            # Repeating what was said is half of tracking; alone it is learnt sooner.
            batches=dict(text=batch("text", words, kind=context, path="tokens", rows=rows,
                                    positions=positions),
                         repeat=batch("text", words, kind="asr", path="tokens", rows=1,
                                      positions=512))),
        asr=dict(
            steps=steps[1], trainable=(r"^encoder", r"^ctc_head", r"^connector"),
            weights=dict(speech=1.0, ctc=1.0), optimizer=optimizer(lr, 50),
            batches=dict(speech=batch("speech", speech, kind="asr", path="speech", rows=rows,
                                      positions=positions, spec_augment=mask))),
        # The connector now reads speech; the text encoder learns to speak its language.
        align=dict(
            steps=steps[2], trainable=(r"^text_encoder",),
            weights=dict(text=1.0), optimizer=optimizer(lr, 20),
            batches=dict(text=batch("text", words, kind=context, path="words", rows=rows,
                                    positions=positions),
                         repeat=batch("text", words, kind="asr", path="words", rows=1,
                                      positions=512))),
        joint=dict(
            # Over a pretrained LLM only "lora" trains; one from scratch still has to learn.
            # With `encoded` speech is read as `prepare --features` left it, not encoded again.
            encoded=False,
            steps=steps[3], trainable=(r"^connector", r"^text_encoder", r"^decoder"),
            weights=dict(speech=1.0, text=0.5), optimizer=optimizer(lr / 2, 20),
            batches=dict(
                speech=batch("speech", speech, kind=context, path="speech", rows=rows,
                             positions=positions, spec_augment=mask),
                text=batch("text", words, kind=context, path="words", rows=rows,
                           positions=positions)))))


# Short dialogues over two of the simulator's domains (seven shared and six own slots), with
# corrections, dontcare and agent proposals.
EASY = dict(domains=("restaurant", "hotel"), domain_counts=(1.0,), turns=(2, 4), same=0.0,
            repair=0.0, proposal=0.15, confirm=0.1)


def prepared(corpus, splits, *, root="", speech="espeak", held_out_voices=("test",)):
    """One entry of `config.prepare`; see `speechdst/data/options.py`."""
    return dict(corpus=corpus, root=root, splits=splits, speech=speech, voices=64,
                held_out_voices=held_out_voices, accents=("en-us",), agent_speech=False, augment={},
                features="none" if speech == "none" else "log_mel", keep_audio=True, seed=0,
                limit=0)


def simulated(c, *, train, test, text, **easier):
    """Spoken dialogues, the test split by other voices than train, and text-only ones."""
    drawn = lambda dialogues, **seed: EASY | dict(dialogues=dialogues, **seed, **easier)
    c.prepare = dict(
        simulated=prepared("simulated", dict(train=drawn(train), test=drawn(test))),
        simulated_text=prepared("simulated", dict(train=drawn(text, seed=7)), speech="none",
                                held_out_voices=()))
    c.tokenizer = dict(size=640, train_on=("simulated", "simulated_text"), path="")
    c.evaluation.update(data="simulated", split="test")


def tiny(c):
    """Three steps a stage: seconds, for tests."""
    simulated(c, train=24, test=6, text=24)
    c.model = model(64, 2, encoder_width=64, encoder_layers=1, lora_rank=4)
    c.stages = stages("text_history", speech=("simulated",), text=("simulated_text",),
                      steps=(3, 3, 3, 3), rows=1, positions=512, lr=1e-3)
    soon(c)
    c.evaluation.update(limit=2, max_new=48)


def soon(c):
    """For steps that are few: programs that compile sooner, and every step written down."""
    for stage in c.stages.values():
        for batch in stage.batches.values():
            batch.buckets = 1
    c.log_every, c.save_every = 1, 1


def demo(c):
    """Learns to track spoken dialogues from nothing in about a quarter of an hour on two cores:
    dialogues of two or three user turns, five values of every type; many small steps."""
    simulated(c, train=1500, test=60, text=5000, values=5, turns=(2, 3))
    c.model = model(128, 4, encoder_width=128, encoder_layers=4)
    # Words of a small vocabulary are told apart at 12.5 vectors/s; the Transformer has half to do.
    c.model.encoder.update(strides=(2, 2, 2, 1), taps=(5, 5, 5, 7))
    c.model.connector.strides = (1, 1)
    c.stages = stages("text_history", speech=("simulated",), text=("simulated_text",),
                      steps=(800, 1600, 300, 1250), rows=1, positions=512, lr=2e-3)
    for stage in (c.stages.text, c.stages.align):
        stage.batches.repeat.positions = 256
    for name in ("align", "joint"):  # words are padded cheaply
        for batch in c.stages[name].batches.values():
            batch.buckets = 2


def multiwoz(c):
    """MultiWOZ 2.1 val as training and test data (899/100 dialogues by hash of their id), spoken
    by espeak-ng; for where the official train split is at hand set `root` and `splits`."""
    folds = dict(train=899, dev=100)
    c.prepare = dict(multiwoz=prepared(
        "multiwoz", {split: dict(split=split, from_split="val", folds=folds) for split in folds},
        root="data/raw/multiwoz", held_out_voices=("dev",)),
        # Real telephone speech, to evaluate on: --config.evaluation.data=spokenwoz
        spokenwoz=prepared("spokenwoz", dict(train={}, dev={}), root="data/raw/spokenwoz",
                           speech="own", held_out_voices=()))
    c.tokenizer = dict(size=1000, train_on=("multiwoz",), path="")
    c.model = model(192, 4, encoder_width=128, encoder_layers=4, lora_rank=16)
    c.stages = stages("text_history", speech=("multiwoz",), text=(),
                      steps=(1450, 1250, 250, 400), rows=1, positions=2048, lr=2e-3)
    c.evaluation.update(data="multiwoz", split="dev", max_new=256)


def transcriber(c):
    """A recogniser for utterances of one small domain, from a manifest of some thousand of them
    (speechdst/data/corpora/asr_manifest.py); for live.asr, asr of evaluate_sets and the transcriber
    of preference data once it is exported."""
    c.prepare = dict(transcribed=prepared("asr_manifest", dict(train={}, dev={}), speech="own",
                                          root="data/raw/transcribed", held_out_voices=()))
    c.tokenizer = dict(size=400, train_on=("transcribed",), path="")
    c.model = model(128, 2, encoder_width=128, encoder_layers=4)
    c.stages = stages("asr", speech=("transcribed",), text=(), steps=(500, 2000, 0, 0), rows=1,
                      positions=1024, lr=2e-3)
    c.order = ("text", "asr")
    for unused in ("align", "joint"):
        del c.stages[unused]
    c.evaluation.update(data="transcribed", split="dev", max_new=96)
    c.evaluation.context.kind = "asr"


# What follows are the published recipes, over checkpoints that are downloaded beforehand to
# checkpoints/NAME (see `c.pretrained`). `train --dry_run` counts their parameters without them.
# "Ours" marks what a paper leaves unknown. WavLM is fed raw waveforms, as the released code does,
# and a frozen one may be run once, beforehand (`prepare --features`, then
# --config.stages.joint.encoded=True).

FOLDERS = {"gemma3-1b": "gemma-3-1b-it", "gemma3-4b": "gemma-3-4b-it",
           "gemma3-12b": "gemma-3-12b-it", "gemma2-9b": "gemma-2-9b-it", "olmo-1b": "OLMo-1B-hf",
           "olmo2-1b": "OLMo-2-0425-1B"}


def published_model(llm, *, connector, lora_rank, text_encoder=True):
    """WavLM-large, a connector of width 1024, a published LLM with LoRA on all linear layers."""
    from dataclasses import asdict

    from speechdst.hf.published import decoder
    from speechdst.models.audio_encoder.wavlm import WAVLM_LARGE

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


def published(c, llm, *, speech, text, kind, agent="text", beam, max_new):
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
    from dataclasses import asdict

    from speechdst.hf.decoders import decoder_config
    from speechdst.hf.wavlm import config

    llm = asdict(decoder_config(llm))
    width, small = llm["transformer"]["width"], transformer(16, 1, 2)
    llm["transformer"].update(lora_rank=4, lora_alpha=4.0)
    hears = asdict(config(encoder)) | dict(kind="wavlm", normalize=False)
    c.model.update(encoder=ConfigDict(hears), decoder=ConfigDict(llm))
    c.model.connector.update(transformer=small, inputs=hears["width"], outputs=width)
    if c.model.text_encoder:
        c.model.text_encoder.update(transformer=small, outputs=16, llm_width=width, vocabulary=0)


def joint_paper(c, llm):
    """arXiv 2511.22503: SpokenWOZ speech and MultiWOZ text (A2 of its table: with Gemma-3-1B-it
    36.3 fuzzy JGA on SpokenWOZ dev and 19.0 on speech-aware MultiWOZ dev, 36.1 and 15.1 without
    the text). Stage 1 of the paper adds Fisher and VoxPopuli (as `asr_manifest`). Unknown, hence
    ours: batch size, text weight (the code's 0.5), mask rate, shape of the schedules."""
    published(c, llm, speech=("spokenwoz",), text=("multiwoz",), kind="single", beam=2,
              max_new=500)
    c.prepare.multiwoz.update(speech="none", agent_speech=False)
    c.model = published_model(llm, lora_rank=32, connector=dict(
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
    published(c, llm, speech=("spokenwoz",), text=(), kind="single", beam=2, max_new=400)
    c.model = published_model(llm, lora_rank=lora_rank, text_encoder=False, connector=dict(
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
    published(c, "olmo2-1b", speech=("spokenwoz",), text=(), kind="spoken_history",
              agent="speech", beam=5, max_new=400)
    c.model = published_model("olmo2-1b", lora_rank=16, text_encoder=False, connector=dict(
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
        for batch in stage.batches.values():
            batch.rows = rows * prod(map(int, topology.split(":")[1].split("x")))


def coffee(c, text=True):
    """Real people ordering coffee; see configs/coffee.py."""
    from configs.coffee import coffee
    coffee(c, text)


PRESETS = dict(
    tiny=tiny, demo=demo, multiwoz=multiwoz, transcriber=transcriber,
    coffee=coffee, coffee_speech=lambda c: coffee(c, text=False),
    gemma3_1b=lambda c: joint_paper(c, "gemma3-1b"),
    gemma3_4b=lambda c: joint_paper(c, "gemma3-4b"),
    gemma3_12b=lambda c: joint_paper(c, "gemma3-12b"),
    olmo_1b=lambda c: joint_paper(c, "olmo-1b"),
    stacking_olmo_1b=lambda c: stacking_paper(c, "olmo-1b", 16),
    stacking_gemma2_9b=lambda c: stacking_paper(c, "gemma2-9b", 8),
    spoken_history_olmo2_1b=spoken_history_paper)


def get_config(preset: str = "demo") -> ConfigDict:
    preset, _, topology = preset.partition("@")
    if preset not in PRESETS:
        raise ValueError(f"joint_dst has no preset {preset!r}, there are {', '.join(PRESETS)}")
    c = ConfigDict()
    c.recipe, c.name = "joint_dst", f"joint_dst_{preset}"
    c.data_dir = f"data/{preset}"
    c.seed = 0
    c.order = ("text", "asr", "align", "joint")
    c.log_every, c.save_every = 10, 200
    c.pretrained = dict(encoder="", decoder="")  # folders of checkpoints; empty: from scratch
    c.loader_workers = 0  # processes that make a batch's rows; 0: two threads of this one
    c.mesh = dict(data=-1, fsdp=1, tensor=1)
    c.evaluation = dict(data="", split="", rows=8, limit=0, beam=1, max_new=160,
                        context=dict(kind="text_history", path="speech", agent="text"))
    PRESETS[preset](c)
    if topology:
        placed(c, preset, topology)
    return c
