"""Tiny tokenizer, dialogues, model and compiled functions, made in memory and shared by tests."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tokenizers as huggingface

from speechdst.config import model_config
from speechdst.data import tokenizer as tokenizers
from speechdst.data.batch import Batch, stack
from speechdst.data.contexts import Context, Hearing, TreeBuilder
from speechdst.data.dialogue import Dialogue, Turn
from speechdst.data.tree import Branch, DialogueTree, RowShape, Segment, Soft, Table, Tokens, pack
from speechdst.steps.joint_dst import losses
from speechdst.training import state

CHANNELS = 8
# Compilation is most of these tests' time, and their programs run for milliseconds.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SCHEMA = {"hotel": ["area", "stars"], "taxi": ["departure", "leave at"]}
USER = (
    "i want a cheap hotel in the north",
    "four stars please",
    "and a taxi from the museum",
    "leave at nine",
    "no, the south",
    "yes that is all",
)
AGENT = ("which area do you like", "how many stars", "booked, anything else", "when will you leave")
# What decoders differ in: settings of the decoder, and of its Transformer. Windows are shorter than
# the contexts of the tests, and the caps are at the size of the scores, so that both are felt.
DECODERS = {
    "plain": (dict(embedding_scale=32**0.5), dict(rms=True)),
    "gemma2": (
        dict(embedding_scale=32**0.5, scale_soft=True, logit_cap=3.0),
        dict(rms=True, norm_offset=1.0, post_norm=True, activation="gelu_tanh", query_scale=0.3,
             score_cap=2.0, windows=(24, 0)),
    ),
    "gemma3": (
        dict(embedding_scale=32**0.5),
        dict(rms=True, norm_offset=1.0, post_norm=True, qk_norm="head", windows=(0, 9),
             rope_local_theta=100.0, rope_scaling=(8.0,)),
    ),
    "olmo": (dict(tied=False), dict(norm_affine=False, clip_qkv=0.7)),
    "olmo2": (dict(tied=False), dict(rms=True, pre_norm=False, post_norm=True, qk_norm="full")),
    "qwen2": (dict(), dict(rms=True, qkv_bias=True, rope_scaling=(4.0, 1.0, 4.0, 64.0))),
    # No family: what they have, at once.
    "mixed": (
        dict(embedding_scale=32**0.5, scale_soft=True, logit_cap=3.0, tied=False),
        dict(rms=True, norm_offset=1.0, post_norm=True, activation="gelu_tanh", query_scale=0.3,
             score_cap=2.0, qk_norm="head", clip_qkv=0.7, qkv_bias=True, windows=(24, 0),
             rope_local_theta=100.0, rope_scaling=(8.0,)),
    ),
}
# For parametrized tests: one that has it all, and each as it is as slow tests.
FAMILIES = [pytest.param(name, marks=[] if name == "mixed" else pytest.mark.slow)
            for name in DECODERS if name != "plain"]
VALUES = ("north", "south", "four", "nine", "the museum", "cambridge")


@functools.cache
def tokenizer() -> tokenizers.Tokenizer:
    texts = [*USER, *AGENT, *VALUES] * 3
    return tokenizers.Tokenizer(
        tokenizers.train(texts, tokenizers.target_symbols(SCHEMA), size=400)
    )


@functools.cache
def tokenizer_json(kind: str) -> bytes:
    """A tokenizer.json as Llama 3, Qwen and OLMo have it ("bytes"), or Gemma ("pieces")."""
    special = ["<pad>", "<bos>", "<eos>"]
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    if kind == "bytes":
        made = huggingface.Tokenizer(huggingface.models.BPE())
        made.pre_tokenizer = huggingface.pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = huggingface.decoders.ByteLevel()
        trainer = huggingface.trainers.BpeTrainer(
            vocab_size=320, special_tokens=special, show_progress=False,
            initial_alphabet=huggingface.pre_tokenizers.ByteLevel.alphabet())
        made.train_from_iterator(USER, trainer)
        # Multi-modal models name tokens that their text model has no row for.
        made.add_special_tokens(["<audio>"])
    else:
        chars = [*sorted(set("".join(USER))), "\u2581"]
        vocab = {t: i for i, t in enumerate([*special, "<unk>", *byte_tokens, *chars])}
        made = huggingface.Tokenizer(huggingface.models.BPE(
            vocab, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        made.normalizer = huggingface.normalizers.Replace(" ", "\u2581")
        made.decoder = huggingface.decoders.Sequence([
            huggingface.decoders.Replace("\u2581", " "), huggingface.decoders.ByteFallback(),
            huggingface.decoders.Fuse()])
        made.add_special_tokens(special)
    made.post_processor = huggingface.processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)])
    made.enable_truncation(4)
    return made.to_str().encode()


def dialogue(
    rng: np.random.Generator, users: int = 3, frames: tuple[int, int] = (16, 60), name: str = "d0"
) -> Dialogue:
    """`users` user turns with random features and growing states, agent turns between them."""
    turns, state_now = [], {}
    for i in range(users):
        if rng.random() < 0.8:
            domain = str(rng.choice(list(SCHEMA)))
            slot = str(rng.choice(SCHEMA[domain]))
            kept = {d: dict(s) for d, s in state_now.items()}
            kept.setdefault(domain, {})[slot] = str(rng.choice(VALUES))
            state_now = kept
        features = rng.standard_normal((int(rng.integers(*frames)), CHANNELS)).astype(np.float16)
        turns.append(Turn("user", str(rng.choice(USER)), state=state_now, features=features))
        if i < users - 1:
            turns.append(Turn("agent", str(rng.choice(AGENT))))
    return Dialogue(name, "tiny", "train", tuple(turns))


@functools.cache
def config(
    stack: int = 0,
    ctc: bool = True,
    mask_rate: float = 0.0,
    layers: int = 2,
    lora_rank: int = 2,
    decoder: str = "plain",
):
    """A `DialogueLMConfig` of width 32; `stack` > 0: frame stacking instead of convolutions;
    `decoder`: of `DECODERS`."""
    outer, inner = DECODERS[decoder]
    tower = dict(width=32, layers=1, heads=2)
    return model_config(
        dict(
            encoder=dict(transformer=tower, channels=CHANNELS, strides=[2, 1], taps=[3, 3]),
            connector=dict(
                transformer=tower, inputs=32, outputs=32, strides=[2, 1], taps=3, stack=stack
            ),
            text_encoder=dict(transformer=tower, vocabulary=0, outputs=32, mask_rate=mask_rate),
            decoder=dict(
                transformer=dict(
                    width=32,
                    layers=layers,
                    heads=4,
                    kv_heads=2,
                    mlp_width=48,
                    gated=True,
                    bias=False,
                    rope_theta=10_000.0,
                    lora_rank=lora_rank,
                    lora_alpha=2.0,
                    **inner,
                ),
                vocabulary=0,
                **outer,
            ),
            ctc=ctc,
        ),
        tokenizer().size,
    )


@functools.cache
def parameters(model) -> state.Params:
    """Drawn parameters, none of them at the special values (zeros, ones) that hide mistakes."""
    rng = np.random.default_rng(5)

    def draw(path, shape):
        x = rng.standard_normal(shape).astype(np.float32)
        if path.endswith("scale"):
            return 1 + 0.1 * x
        return x * (0.1 if path.endswith("bias") else 0.3 if "lora" in path else shape[-2] ** -0.5)

    return {
        path: jax.numpy.asarray(draw(path, x.shape)) for path, x in state.abstract(model)[1].items()
    }


def builder(kind: str, path: str = "speech", model=None, **context) -> TreeBuilder:
    model = model or config()
    return TreeBuilder(
        Context(kind, path, **context), tokenizer(), model.soft_length, Hearing.of(model.encoder)
    )


def shape(
    path: str = "speech",
    model=None,
    positions: int = 512,
    block: int = 64,
    tables: tuple[tuple[int, int], ...] = ((8, 64),),
) -> RowShape:
    """The closed row shape of the tests; `tables` are (utterances, their largest size)."""
    model = model or config()
    soft = model.soft_length
    hears = Hearing.of(model.encoder).table
    kind, transcript = ("words", 0) if path == "words" else (hears, 16)
    return RowShape(
        positions,
        tuple(Table(kind, n, size, soft(kind, size), transcript) for n, size in tables),
        block,
        CHANNELS,
    )


def row(trees, row_shape: RowShape) -> Batch:
    return stack([pack(trees, row_shape)])


def alone(tree: DialogueTree) -> list[DialogueTree]:
    """Every answer as a tree of its own: its prefix of the trunk and only what that hears."""
    result = []
    for b in tree.branches:
        trunk, used = tree.trunk[: b.after], []

        def own(segments: tuple[Segment, ...], used=used) -> tuple[Segment, ...]:
            made = []
            for s in segments:
                if isinstance(s, Soft):
                    used.append(s.utterance)
                    s = Soft(len(used) - 1, s.length)
                made.append(s)
            return tuple(made)

        trunk, answer = own(trunk), own(b.segments)
        branch = dataclasses.replace(b, segments=answer)
        result.append(DialogueTree(trunk, (branch,), tuple(tree.utterances[u] for u in used)))
    return result


def silent(tree: DialogueTree) -> DialogueTree:
    """The same tree with nothing to learn: no targets, no transcripts."""
    mute = lambda segments: tuple(
        dataclasses.replace(s, loss=False) if isinstance(s, Tokens) else s for s in segments
    )
    return DialogueTree(
        mute(tree.trunk),
        tuple(Branch(b.after, mute(b.segments), b.task) for b in tree.branches),
        tuple(dataclasses.replace(u, transcript=np.zeros(0, np.int32)) for u in tree.utterances),
    )


@functools.cache
def gradient(model):
    """Compiled (params, batch, CTC's share) -> ((loss, (sum, weight) pairs), gradients)."""
    graph, _ = state.abstract(model)

    def objective(params, batch, share):
        pairs = losses(
            state.model_of(graph, params),
            {"batch": batch},
            {"batch": "loss", "ctc": "ctc"},
            jax.random.key(0),
        )
        return pairs["loss"][0] + share * pairs.get("ctc", (0.0,))[0], pairs

    return jax.jit(jax.value_and_grad(objective, has_aux=True), compiler_options=QUICK)


def assert_same_gradients(found: dict, expected: dict, relative: float = 1e-4) -> None:
    """Every parameter's gradient to `relative` of its own largest entry. Gradients that are zero
    in exact arithmetic (biases of keys) are held against the largest of all."""
    overall = max(float(np.abs(g).max()) for g in expected.values())
    for path, g in expected.items():
        g, other = np.asarray(g), np.asarray(found[path])
        limit = max(relative * float(np.abs(g).max()), 1e-6 * overall)
        assert float(np.abs(other - g).max()) <= limit, path
