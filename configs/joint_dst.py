"""Joint speech and text training for spoken dialogue state tracking (arXiv 2511.22503).

    python -m speechdst.prepare  --config=configs/joint_dst.py:demo
    python -m speechdst.train    --config=configs/joint_dst.py:demo --workdir=runs/demo
    python -m speechdst.evaluate --config=configs/joint_dst.py:demo --workdir=runs/demo
    python -m speechdst.report   --run=runs/demo

Presets: tiny (seconds, for tests), demo (minutes, learns), multiwoz (real dialogues).
The presets here have no pretrained parts, so their first stage trains the LLM on text and their
ASR stage adds a CTC loss to the encoder; recipes over pretrained towers have stages `asr` and
`joint` only, and no CTC.
"""

from ml_collections import ConfigDict


def transformer(width, layers, heads, **kwargs):
    return dict(width=width, layers=layers, heads=heads, **kwargs)


def model(width, layers, *, encoder_width, encoder_layers, connector_layers=1, lora_rank=8):
    """A from-scratch model: 25 encoder vectors/s, 12.5 soft positions/s."""
    heads = max(2, width // 32)
    return ConfigDict(dict(
        encoder=dict(transformer=transformer(encoder_width, encoder_layers, encoder_width // 32),
                     channels=80, strides=(2, 2)),
        connector=dict(transformer=transformer(encoder_width, connector_layers, 4),
                       inputs=encoder_width, outputs=width, strides=(2, 1), taps=3, stack=0),
        text_encoder=dict(transformer=transformer(encoder_width, 1, 4),
                          vocabulary=0, outputs=encoder_width, mask_rate=0.1),
        decoder=dict(transformer=transformer(width, layers, heads, kv_heads=heads // 2,
                                             mlp_width=width * 3, gated=True, rms=True, bias=False,
                                             rope_theta=10_000.0, lora_rank=lora_rank,
                                             lora_alpha=float(lora_rank)),
                     vocabulary=0, tied=True),
        ctc=True, dtype="float32"))


def optimizer(lr, warmup, **kwargs):
    return dict(lr=lr, warmup=warmup, decay="cosine", end_ratio=0.05, clip=1.0,
                weight_decay=0.01, b2=0.98, multipliers=(), **kwargs)


def batch(loss, data, *, kind, path, rows, positions, split="train", spec_augment=None):
    return dict(loss=loss, rows=rows, positions=positions, block=128,
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
            batches=dict(text=batch("text", words, kind=context, path="tokens", rows=rows,
                                    positions=positions))),
        align=dict(
            steps=steps[1], trainable=(r"^connector/(transformer|out)", r"^text_encoder"),
            weights=dict(text=1.0), optimizer=optimizer(lr, 50),
            batches=dict(text=batch("text", words, kind=context, path="words", rows=rows,
                                    positions=positions))),
        asr=dict(
            steps=steps[2], trainable=(r"^encoder", r"^ctc_head", r"^connector"),
            weights=dict(speech=1.0, ctc=1.0), optimizer=optimizer(lr, 50),
            batches=dict(speech=batch("speech", speech, kind="asr", path="speech", rows=rows,
                                      positions=positions, spec_augment=mask))),
        joint=dict(
            steps=steps[3], trainable=(r"^connector", r"^text_encoder", r"lora"),
            weights=dict(speech=1.0, text=0.5), optimizer=optimizer(lr / 2, 20),
            batches=dict(
                speech=batch("speech", speech, kind=context, path="speech", rows=rows,
                             positions=positions, spec_augment=mask),
                text=batch("text", words, kind=context, path="words", rows=rows,
                           positions=positions)))))


def get_config(preset: str = "demo") -> ConfigDict:
    c = ConfigDict()
    c.name = f"joint_dst_{preset}"
    c.data_dir = f"data/{preset}"
    c.seed = 0
    c.order = ("text", "align", "asr", "joint")
    c.log_every, c.save_every = 10, 200
    c.mesh = dict(data=-1, fsdp=1, tensor=1)
    # Single- and some two-domain dialogues of three domains, spoken by twelve voices; the test
    # split is spoken by others. Four times as many dialogues are text only.
    easy = dict(domains=("restaurant", "hotel", "taxi"), domain_counts=(0.8, 0.2), turns=(2, 5),
                same=0.0, repair=0.0, proposal=0.15, confirm=0.1)
    spoken = dict(corpus="simulated", root="", speech="espeak", voices=12,
                  held_out_voices=("test",), agent_speech=False, augment={}, features="log_mel",
                  keep_audio=True, seed=0, limit=0)
    silent = spoken | dict(speech="none", features="none", held_out_voices=())
    c.tokenizer = dict(size=640, train_on=("simulated", "simulated_text"), path="")
    c.evaluation = dict(data="simulated", split="test", rows=8, limit=0, beam=1, max_new=160,
                        context=dict(kind="text_history", path="speech", agent="text"))
    dialogues = dict(tiny=(24, 6, 24), demo=(1200, 60, 5000)).get(preset)
    if dialogues is None:
        raise ValueError(f"joint_dst has no preset {preset!r}; there are tiny and demo")
    train, test, text = dialogues
    c.prepare = dict(
        simulated=spoken | dict(splits=dict(train=dict(dialogues=train, **easy),
                                            test=dict(dialogues=test, **easy))),
        simulated_text=silent | dict(splits=dict(train=dict(dialogues=text, seed=7, **easy))))
    names = dict(speech=("simulated",), text=("simulated_text",))
    if preset == "tiny":
        c.model = model(64, 2, encoder_width=64, encoder_layers=1, lora_rank=4)
        c.stages = stages("text_history", **names, steps=(3, 3, 3, 3), rows=1, positions=512,
                          lr=1e-3)
        c.log_every, c.save_every = 1, 1
        c.evaluation.update(limit=2, max_new=48)
    else:
        c.model = model(128, 4, encoder_width=128, encoder_layers=4)
        c.stages = stages("text_history", **names, steps=(2500, 600, 1500, 500), rows=2,
                          positions=512, lr=2e-3)
    return c
