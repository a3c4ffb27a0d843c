"""Two corpora, what is known of neither, and the arms of joint training between them.

    python -m benchmarks.cross_corpus
    python -m benchmarks.cross_corpus --corpora=sgd --raw=data/raw
    python -m benchmarks.cross_corpus --corpora=restaurant-hotel --raw=data/raw

Presets (arXiv 2511.22503 compares SpokenWOZ and speech-aware MultiWOZ): `simulated`, two schemas
of the simulator by other voices and in other styles; `german`, two domains of its German schema;
`sgd`, Schema-Guided Dialogue and MultiWOZ; `A-B`, dialogues of MultiWOZ with domain A and not B,
and with B and not A (restaurant-hotel, train-taxi). Behind "+" a size of `SIZES` or a family of
`FAMILIES`, behind "@" the folder of the corpora as released, `sgd` and `multiwoz` in it. "tiny_" in
front makes all of it small: for tests.

All arms start from one base (stages `text`, `asr`, `read`), which has met neither corpus: it
stands for the pretrained LLM and speech encoder of the published recipe. It knows dialogues of
other domains, and transcribed speech of phrases of six words in no order
(`corpora.simulated_words`). What it stands for has met nearly every word and phrase of both
corpora, so these are those of both, without their dialogues, slots and states. An arm is the last
stage, `joint`, over the corpora `a` and `b`: see `ARMS`.
"""

from ml_collections import ConfigDict

from configs import joint_dst
from configs.joint_dst import batch, model, optimizer, prepared

CORPORA = ("a", "b")
# The evaluation splits; nothing is chosen on the second.
CHOOSING, HELD_OUT = "dev", "test"
WRITTEN = dict(filler=0.0, repair=0.0, restart=0.0)
SPOKEN = dict(filler=0.35, repair=0.1, restart=0.15)
TALK = dict(domain_counts=(1.0,), turns=(2, 4), same=0.0, proposal=0.15, confirm=0.1)
# Decoders of the text budget: width and layers; and what another family differs in.
SIZES = {"small": (64, 2), "middle": (128, 4), "large": (192, 6)}
FAMILIES = {"llama": {}, "gpt": dict(gated=False, rms=False, bias=True, activation="gelu_tanh"),
            "olmo2": dict(pre_norm=False, post_norm=True, qk_norm="full")}


def splits(sizes, **options):
    return {split: dict(dialogues=n, split=split, **options)
            for split, n in zip(("train", CHOOSING, HELD_OUT), sizes, strict=True)}


def phrases_of(dialogues, *of):
    return prepared("simulated_words", dict(train=dict(
        dialogues=dialogues, of=of, phrase=6, words=(1, 2))), held_out_voices=())


def further(**options):
    """Dialogues as those of a corpus, none of which it holds."""
    return dict(corpus="simulated", dialogues=600, seed=1, **options)


def simulated(c, small, raw):
    """Schemas, domains, accents and manners differ; text of both is at hand as it is spoken."""
    del raw
    sizes = (24, 4, 4) if small else (1500, 40, 60)
    held = (CHOOSING, HELD_OUT)
    one = dict(domains=("restaurant",), filler=0.08, repair=0.02, **TALK)
    two = dict(domains=("events",), schema="b", filler=0.3, repair=0.08, restart=0.08, **TALK)
    c.prepare = dict(
        a=prepared("simulated", splits(sizes, **one), held_out_voices=held),
        b=prepared("simulated", splits(sizes, **two), held_out_voices=held),
        other_a=prepared("simulated", dict(train=dict(
            dialogues=sizes[0], domains=("taxi", "train", "hotel"), **TALK)), speech="none",
            held_out_voices=()),
        other_b=prepared("simulated", dict(train=dict(
            dialogues=sizes[0], domains=("music", "rentalcar", "doctor"), schema="b",
            **TALK)), speech="none", held_out_voices=()),
        general=phrases_of(24 if small else 8000, further(**one), further(**two)))
    c.prepare["a"]["accents"] = ("en-us",)
    c.prepare["b"]["accents"] = ("en",)
    c.prepare["general"]["accents"] = ("en-us", "en")
    # What is written of the same conversations, for the text budget.
    for name, own in (("a", one), ("b", two)):
        c.prepare[f"{name}_written"] = prepared(
            "simulated", dict(train=dict(dialogues=sizes[0], **(own | WRITTEN))), speech="none",
            held_out_voices=())
        c.prepare[f"{name}_spoken"] = prepared(
            "simulated", dict(train=dict(dialogues=sizes[0], **(own | SPOKEN))), speech="none",
            held_out_voices=())
    return ("other_a", "other_b")


def german(c, small, raw):
    """Restaurants and hotels in German."""
    del raw
    sizes = (24, 4, 4) if small else (1500, 40, 60)
    of = lambda *domains: dict(domains=domains, language="de", **TALK)
    held = (CHOOSING, HELD_OUT)
    c.prepare = dict(
        a=prepared("simulated", splits(sizes, **of("restaurant")), held_out_voices=held),
        b=prepared("simulated", splits(sizes, **of("hotel")), held_out_voices=held),
        other=prepared("simulated", dict(train=dict(dialogues=2 * sizes[0], **of("taxi", "zug"))),
                       speech="none", held_out_voices=()),
        general=phrases_of(24 if small else 8000,
                         further(**of("restaurant", "hotel"))))
    for name in ("a", "b", "general"):
        c.prepare[name]["accents"] = ("de",)
    return ("other",)


FOLDS = dict(train=799, dev=100, test=100)  # of MultiWOZ val, by hash of the id


def multiwoz(raw, speech="espeak", **options):
    return prepared("multiwoz", {split: dict(split=split, from_split="val", folds=FOLDS, **options)
                                 for split in FOLDS}, root=f"{raw}/multiwoz", speech=speech,
                    held_out_voices=(CHOOSING, HELD_OUT) if speech != "none" else ())


# Domains of SGD that MultiWOZ knows by one name or another.
SHARED = ("restaurants", "hotels", "ridesharing", "buses", "flights", "trains", "travel")


def sgd(c, small, raw):
    """`a` is SGD about what MultiWOZ is about, its dev split in halves to choose and to test (its
    test split is often not at hand); `b` MultiWOZ val in folds. The base reads the rest of SGD."""
    root, held = f"{raw}/sgd", (CHOOSING, HELD_OUT)
    own = lambda split, **kw: dict(split=split, merge_services=True, **kw)
    c.prepare = dict(
        a=prepared("sgd", {split: own("dev" if split in held else "train", having=SHARED, **part)
                           for split, part in (("train", {}), (CHOOSING, dict(half=0)),
                                               (HELD_OUT, dict(half=1)))},
                   root=root, held_out_voices=held),
        b=multiwoz(raw),
        other=prepared("sgd", dict(train=own("train", lacking=SHARED)), root=root, speech="none",
                       held_out_voices=()),
        general=phrases_of(24 if small else 20_000,
                         dict(corpus="sgd", root=root, merge_services=True),
                         dict(corpus="multiwoz", root=f"{raw}/multiwoz", from_split="val",
                              folds=FOLDS)))
    for name in ("a", "other"):
        c.prepare[name]["limit"] = 8 if small else 4000
    c.evaluation.limit = 4 if small else 100
    return ("other",)


def domains(c, small, raw, a, b):
    """Dialogues with one of two domains, the other left out; the base reads those with neither."""
    c.prepare = dict(
        a=multiwoz(raw, having=(a,), lacking=(b,)), b=multiwoz(raw, having=(b,), lacking=(a,)),
        other=multiwoz(raw, "none", lacking=(a, b)),
        general=phrases_of(24 if small else 20_000, dict(
            corpus="multiwoz", root=f"{raw}/multiwoz", from_split="val", folds=FOLDS)))
    return ("other",)


PRESETS = dict(simulated=simulated, german=german, sgd=sgd)


def get_config(preset: str = "simulated") -> ConfigDict:
    preset, _, raw = preset.partition("@")
    name = preset.removeprefix("tiny_")
    small, (name, *options) = name != preset, name.split("+")
    c = joint_dst.get_config("tiny")
    c.name, c.data_dir = f"cross_corpus_{preset}", f"data/cross_corpus_{preset}"
    c.order, c.base = ("text", "asr", "read"), ()
    if not small:
        c.log_every, c.save_every = 20, 500
    c.evaluation.update(data="", split=HELD_OUT, limit=0, rows=64, max_new=96)
    c.prepare = ConfigDict()
    if name in PRESETS:
        other = PRESETS[name](c, small, raw or "data/raw")
    elif name.count("-") == 1:
        other = domains(c, small, raw or "data/raw", *name.split("-"))
    else:
        raise ValueError(f"cross_corpus has no preset {preset!r}, there are {', '.join(PRESETS)} "
                         "and pairs of MultiWOZ's domains, as restaurant-hotel")
    real = name not in ("simulated", "german")
    c.tokenizer = dict(size=1000, train_on=("general", *other, "a", "b"), path="")
    size = next((SIZES[o] for o in options if o in SIZES), SIZES["middle"])
    # A decoder from scratch is trained as a whole.
    c.model = (model(64, 2, encoder_width=64, encoder_layers=1, lora_rank=0) if small else
               model(*size, encoder_width=128, encoder_layers=4, lora_rank=0))
    # The text encoder reads the LLM's own embedding: from scratch it takes longer to learn to spell
    # than all stages together.
    c.model.text_encoder.llm_width = c.model.decoder.transformer.width
    family = next((FAMILIES[o] for o in options if o in FAMILIES), {})
    c.model.decoder.transformer.update(family)
    if unknown := set(options) - set(SIZES) - set(FAMILIES):
        raise ValueError(f"no size or family {sorted(unknown)[0]!r}")
    heard = [f"{o}_heard" for o in other]
    for o in other:  # words in no order alone do not teach a decoder to read what was heard
        c.prepare[f"{o}_heard"] = c.prepare[o].to_dict() | dict(
            speech="espeak", features="log_mel", limit=8 if small else 1000 // len(other),
            accents=c.prepare.general.accents)
    positions = (512, 512) if small else (2048, 2048) if real else (1024, 512)
    stages(c, other, heard, small, *positions)
    return c


def stages(c, other, heard, small, base, arm):
    """`base`: positions of a row of text and of utterances before `joint`; `arm`: of a row of
    dialogues in `read` and `joint`."""
    steps = (3, 3, 3, 4) if small else (1000, 1000, 700, 300)
    lr = 2e-3
    mask = dict(channel_masks=1, channel_width=12, time_masks=1, time_width=12)
    decoder = r"^decoder/"

    def read(loss, data, path, positions, kind="text_history", **kwargs):
        return batch(loss, data, kind=kind, path=path, rows=1, positions=positions, **kwargs)

    def hearing(positions, **kwargs):
        made = read("speech", ("general", *heard), "speech", positions, "asr", **kwargs)
        for source in made["sources"]:
            source["weight"] = 0.6 if source["data"] == "general" else 0.4 / len(heard)
        return made

    spelt = hearing(base, spec_augment=mask)
    spelt["context"]["spelling"] = "characters"
    c.stages = dict(
        text=dict(
            steps=steps[0], trainable=(decoder,), weights=dict(text=1.0),
            optimizer=optimizer(lr, 50),
            batches=dict(text=read("text", other, "tokens", base),
                         repeat=read("text", ("general",), "tokens", base // 4, "asr"))),
        asr=dict(
            steps=steps[1], trainable=(r"^encoder", r"^ctc_head"), weights=dict(ctc=1.0),
            optimizer=optimizer(lr, 100), batches=dict(speech=spelt)),
        # The encoder is frozen from here on, and run once for all that follows. The decoder learns
        # to read what the connector makes of speech and of text alike, for the one that it has
        # been so far has met tokens only.
        read=dict(
            encoded=True, steps=steps[2], trainable=(r"^connector", r"^text_encoder", decoder),
            weights=dict(speech=1.0, text=1.0), optimizer=optimizer(1.5 * lr, 50),
            batches=dict(hear=hearing(base), track=read("speech", heard, "speech", arm),
                         repeat=read("text", ("general",), "words", base // 4, "asr"),
                         text=read("text", other, "words", arm))),
        # What it has heard is heard on: else an arm forgets how words sound that its corpus lacks.
        joint=dict(
            encoded=True, steps=steps[3], trainable=(r"^connector", r"^text_encoder", decoder),
            weights=dict(speech=1.0, text=1.0), optimizer=optimizer(lr, 20),
            batches=dict(speech=read("speech", CORPORA, "speech", arm),
                         hear=hearing(256),
                         text=read("text", CORPORA, "words", arm))))
