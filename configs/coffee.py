"""Real people ordering coffee: states known, words not (`configs/joint_dst.py:coffee`).

    C=--config=configs/joint_dst.py:coffee W=--workdir=runs/coffee
    heard() { python -m speechdst.transcribe $C $W --stage=$1 --data=recordings \\
              --out=data/coffee/$2.jsonl && python -m speechdst.prepare $C --only=$2; }
    python -m speechdst.prepare $C --only=written,spoken,read_speech,recordings
    python -m speechdst.train $C $W --config.order="('text','asr')"
    heard asr orders
    python -m speechdst.train $C $W --config.order="('text','asr','adapt')"
    heard adapt orders_again
    python -m speechdst.train $C $W
    python -m speechdst.evaluate $C $W
    python -m speechdst.report --run=runs/coffee --data=data/coffee/recordings --split=test \\
        --audio_dialogues=100

Everything is learnt from scratch. Stage `asr` learns to hear by CTC alone, from real read speech
and from orders that are drawn from the grammar and spoken by espeak; pieces of the vocabulary are
hardly longer than letters, for there are too few recordings to learn words as wholes. It then says
which of the grammar's wordings of its state every real recording most likely is (`transcribe`):
what the slots are is right in any case, and stage `adapt` gets used to people by it. Transcribed
once more, the recordings join the spoken and the written orders in stage `joint`, each augmented
many times over and, in every batch, by other vocal tracts, paces, colours and noise. What was
ordered is looked for among all that the grammar allows (`speechdst/decoding/commands.py`); the
decoder's own answer is scored beside it. `coffee_speech` is the same without the text path; it may
go on from the same first stages.

Data: the speech-to-intent benchmark in data/raw/speech_to_intent, and speechocean762 as
`manifest.jsonl` in data/raw/speechocean762 (other folders by --config.prepare.NAME.root and, of the
grammar, --config.evaluation.grammar).
Recordings whose id has the hash of `test` or `dev` are heard by no stage.
"""

from ml_collections import ConfigDict

from configs import joint_dst as base

# What differs between rooms, microphones, lines and speakers.
AUGMENT = dict(
    speed=dict(probability=0.8, factor=(0.85, 1.15)),
    tempo=dict(probability=0.3, factor=(0.85, 1.2)),
    pitch=dict(probability=0.2, semitones=(-2.0, 2.0)),
    reverberation=dict(probability=0.3, seconds=(0.1, 0.5), wet=(0.05, 0.4)),
    noise=dict(probability=0.5, snr=(5.0, 30.0)),
    telephone=0.15)
VARIED = dict(channel_masks=2, channel_width=15, time_masks=3, time_width=20, time_warp=0.15,
              vocal_tract=0.12, colour=0.25, floor=0.45)


def coffee(c, text=True):
    folder = "data/raw/speech_to_intent"
    drawn = lambda orders, seed: dict(train=dict(split="grammar", orders=orders, seed=seed))
    prepared = lambda splits, speech: base.prepared(
        "speech_to_intent", splits, root=folder, speech=speech, held_out_voices=())
    heard = dict(dev_speakers=0.1)
    c.prepare = dict(
        read_speech=base.prepared("asr_manifest", dict(train=heard, dev=heard),
                                  root="data/raw/speechocean762", speech="own",
                                  held_out_voices=()),
        written=prepared(drawn(4000, 0), "none"),
        spoken=prepared(drawn(5000, 1), "espeak") | dict(
            voices=300, accents=("en-us", "en-us-nyc", "en", "en-gb-x-rp", "en-029"),
            augment=AUGMENT, keep_audio=False),
        recordings=prepared(dict(train={}, dev={}, test={}), "own"),
        **{name: prepared(dict(train=dict(transcripts=f"data/coffee/{name}.jsonl")), "own")
           | dict(renderings=8, augment=AUGMENT, keep_audio=False)
           for name in ("orders", "orders_again")})
    c.data_dir = "data/coffee"
    c.tokenizer = dict(size=320, train_on=("written", "read_speech"), path="")
    c.model = base.model(128, 2, encoder_width=128, encoder_layers=4)
    c.model.encoder.standardised = True
    c.stages = stages(text)
    c.order = ("text", "asr", "adapt", *["align"] * text, "joint")
    c.evaluation.update(data="recordings", split="test", max_new=200, grammar=folder)
    c.evaluation.pause = 0.0  # a recording is one order
    c.evaluation.context.kind = "single"


def stages(text):
    """Those of the other presets, but that the encoder goes on learning to the end."""
    def batch(loss, data, kind, path, positions, **kwargs):
        made = base.batch(loss, tuple(data), kind=kind, path=path, rows=1, positions=positions,
                          **kwargs)
        for source in made["sources"]:
            source["weight"] = data[source["data"]]
        return made

    made = dict(
        text=dict(
            steps=400, trainable=(r"^decoder/(?!.*lora)",), weights=dict(text=1.0),
            optimizer=base.optimizer(3e-3, 30),
            batches=dict(text=batch("text", dict(written=1.0), "single", "tokens", 768),
                         repeat=batch("text", dict(written=0.5, read_speech=0.5), "asr", "tokens",
                                      512))),
        asr=dict(
            steps=1600, trainable=(r"^encoder", r"^ctc_head"), weights=dict(ctc=1.0),
            optimizer=base.optimizer(2e-3, 150),
            batches=dict(speech=batch("speech", dict(spoken=0.4, read_speech=0.6), "asr", "speech",
                                      1536, spec_augment=VARIED))),
        adapt=dict(
            steps=2400, trainable=(r"^encoder", r"^ctc_head", r"^connector"),
            weights=dict(speech=0.2, ctc=1.0), optimizer=base.optimizer(1.5e-3, 100),
            batches=dict(speech=batch("speech", dict(orders=0.5, read_speech=0.25, spoken=0.25),
                                      "asr", "speech", 1536, spec_augment=VARIED))),
        align=dict(
            steps=150, trainable=(r"^text_encoder",), weights=dict(text=1.0),
            optimizer=base.optimizer(2e-3, 20),
            batches=dict(text=batch("text", dict(written=1.0), "single", "words", 768))),
        joint=dict(
            encoded=False, steps=900,
            trainable=(r"^encoder", r"^ctc_head", r"^connector", r"^text_encoder",
                       r"^decoder/(?!.*lora)"),
            weights=dict(speech=1.0, ctc=1.0) | (dict(text=0.5) if text else {}),
            optimizer=base.optimizer(8e-4, 50),
            batches=dict(speech=batch("speech", dict(orders_again=0.7, spoken=0.3), "single",
                                      "speech", 1024, spec_augment=VARIED))
            | (dict(text=batch("text", dict(written=1.0), "single", "words", 512))
               if text else {})))
    if not text:
        del made["align"]
    return ConfigDict(made)
