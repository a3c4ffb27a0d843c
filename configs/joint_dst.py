"""Joint speech and text training for spoken dialogue state tracking (arXiv 2511.22503).

    python -m speechdst.prepare  --config=configs/joint_dst.py:demo
    python -m speechdst.train    --config=configs/joint_dst.py:demo --workdir=runs/demo
    python -m speechdst.evaluate --config=configs/joint_dst.py:demo --workdir=runs/demo
    python -m speechdst.report   --run=runs/demo

Presets from scratch: tiny (seconds, for tests), demo (minutes, learns), multiwoz (real dialogues).
They have no pretrained parts, so their first stage trains the LLM on text and their ASR stage adds
a CTC loss to the encoder. Presets over downloaded checkpoints, which have stages `asr` and `joint`
only (configs/published.py, with the figures that their papers report): gemma3_1b, gemma3_4b,
gemma3_12b, olmo_1b (2511.22503), stacking_olmo_1b, stacking_gemma2_9b (2506.08633),
spoken_history_olmo2_1b (2510.09424). With rows and mesh for a TPU slice: gemma3_1b@v5e:4x4.
"""

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
    simulated(c, train=1500, test=60, text=4000, values=5, turns=(2, 3))
    c.model = model(128, 4, encoder_width=128, encoder_layers=4)
    # Words of a small vocabulary are told apart at 12.5 vectors/s; the Transformer has half to do.
    c.model.encoder.update(strides=(2, 2, 2, 1), taps=(5, 5, 5, 7))
    c.model.connector.strides = (1, 1)
    c.stages = stages("text_history", speech=("simulated",), text=("simulated_text",),
                      steps=(700, 1350, 450, 1400), rows=1, positions=512, lr=2e-3)
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


def coffee(c, text=True):
    """Real people ordering coffee; see configs/coffee.py."""
    from configs.coffee import coffee
    coffee(c, text)


def published(name):
    """A published system, over downloaded checkpoints; see configs/published.py."""
    def preset(c):
        from configs.published import PRESETS
        PRESETS[name](c)
    return preset


PRESETS = dict(
    tiny=tiny, demo=demo, multiwoz=multiwoz, transcriber=transcriber,
    coffee=coffee, coffee_speech=lambda c: coffee(c, text=False),
    **{name: published(name) for name in (
        "gemma3_1b", "gemma3_4b", "gemma3_12b", "olmo_1b", "stacking_olmo_1b",
        "stacking_gemma2_9b", "spoken_history_olmo2_1b")})


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
        from configs.published import placed
        placed(c, preset, topology)
    return c
