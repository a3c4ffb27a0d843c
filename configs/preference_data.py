"""Preference pairs out of recorded conversations, as arXiv 2506.21463 makes them.

    python -m speechdst.prepare_pairs --config=configs/preference_data.py:demo
    python -m speechdst.prepare_pairs --config=configs/preference_data.py:recordings \\
        --config.recordings.root=FOLDER \\
        --config.detection.judge.url=http://localhost:8000/v1 --config.detection.judge.model=NAME \\
        --config.improvement.writer.url=http://localhost:8000/v1 \\
        --config.improvement.writer.model=NAME

Presets: tiny, demo and faulty (simulated live logs, offline: the pairs that the presets of these
names in configs/dpo_ln.py train on), published (the same with the mixture of types of the paper),
recordings (your own folder, ROOT/SPLIT/NAME.wav with the agent left and the user right beside
NAME.json; it needs a judge and a writer for what is said, without them only interruptions and late
answers get a better reply), given (pairs that were made elsewhere). What there is to set stands in
speechdst/preference/settings.py.
"""

from ml_collections import ConfigDict

# Of all pairs; within the 27 % that are about timing alone, 36 % are silent (section 5.1).
PUBLISHED = dict(content=0.73, cut_user=0.27 * 0.64, silent=0.27 * 0.36, backchannel=0.0)


def endpoint():
    return dict(url="", model="", key_variable="OPENAI_API_KEY", timeout=60.0, attempts=5,
                backoff=1.0, longest_pause=60.0, calls=10_000, in_a_row=5)


def timing(cut, silent, late, stops, backchannel):
    return dict(cut=cut, silent=silent, late=late, stops=stops, backchannel=backchannel)


def simulated(conversations, *, content, faults, turns, seed):
    """Logs of an agent in a small domain."""
    said = dict(turns=turns, domains=("restaurant", "hotel"), domain_counts=(1.0,), same=0.0)
    return dict(kind="simulated", conversations=conversations, said=said, content=content,
                timing=faults, seed=seed)


def settings(name, recordings, *, shares, calibration=40):
    faults = timing(cut=0.15, silent=0.1, late=0.1, stops=0.5, backchannel=0.3)
    known = simulated({"train": calibration}, content=0.4, faults=faults, turns=(3, 6), seed=1)
    del known["kind"]
    return ConfigDict(dict(
        work=f"data/conversations_{name}/pairs_work", out=f"data/conversations_{name}/pairs",
        recordings=recordings,
        resynthesis=dict(synthesizer="espeak", choice="near", voices=24, held_out=("test",),
                         augment={}),
        calibration=known,
        detection=dict(rules=dict(pause=1.3, floor=0.5, cut_user=0.3, silent=1.5,
                                  interjection_words=3, yields=0.8),
                       judge=endpoint(), least_alpha=0.2),
        improvement=dict(writer=endpoint(), replies="first", better=1, reply=(0.2, 0.6)),
        replies=dict(synthesizer="espeak", voice="en-us+f2/175/50"),
        pairs=dict(tail=0.8, silence=6.0, context=240.0, shares=shares, mixed=("train",),
                   seed=0)))


def tiny():
    """A handful of conversations: seconds."""
    faults = timing(cut=0.3, silent=0.15, late=0.1, stops=1.0, backchannel=0.5)
    return settings("tiny", simulated({"train": 4, "test": 2}, content=0.4, faults=faults,
                                      turns=(2, 2), seed=2), shares={}, calibration=4)


def demo():
    """A third of the replies have some issue; mostly their timing is wrong."""
    faults = timing(cut=0.15, silent=0.08, late=0.08, stops=0.5, backchannel=0.3)
    return settings("demo", simulated({"train": 400, "test": 40}, content=0.15, faults=faults,
                                      turns=(2, 3), seed=2),
                    shares=dict(content=0.25, cut_user=0.35, silent=0.3, backchannel=0.1))


def faulty():
    """More of the demo's, of users who do not pause within a turn: what is right can then always be
    heard, and an agent is only to leave off bad habits. Mostly about interruptions, for silence to
    be answered is many frames that all say the same: a few such pairs more, and a model learns to
    talk at any time. The silence behind a reply teaches it to stop."""
    timing = demo().recordings.timing.to_dict() | dict(pause=0.0)
    c = settings("faulty", simulated({"train": 1200, "test": 40}, content=0.15, faults=timing,
                                     turns=(2, 3), seed=2),
                 shares=dict(content=0.1, cut_user=0.66, silent=0.12, backchannel=0.12))
    c.pairs.update(tail=2.5, silence=4.0)
    return c


def published():
    """The mixture of the paper."""
    faults = timing(cut=0.08, silent=0.05, late=0.05, stops=0.0, backchannel=0.3)
    return settings("published", simulated({"train": 400, "test": 40}, content=0.4, faults=faults,
                                           turns=(3, 6), seed=2), shares=PUBLISHED)


def recordings():
    """Your own folder."""
    return settings("recordings", dict(kind="folder", root="data/raw/recordings",
                                       splits=("train",), transcriber=""), shares={})


def given():
    """Pairs that were made elsewhere: checked, counted, mixed."""
    return settings("given", dict(kind="pairs", root="data/raw/pairs", splits=("train",)),
                    shares={})


PRESETS = dict(tiny=tiny, demo=demo, faulty=faulty, published=published, recordings=recordings,
               given=given)


def get_config(preset: str = "demo") -> ConfigDict:
    if preset not in PRESETS:
        raise ValueError(f"preference_data has no preset {preset!r}, there are "
                         f"{', '.join(PRESETS)}")
    return PRESETS[preset]()
