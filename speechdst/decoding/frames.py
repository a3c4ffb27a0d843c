"""Frame-synchronous decoding of a multi-stream model: the user's codes in, text and own codes out.

A frame of the user's audio is read, and text and codes of the model's next frame come out, from one
step of the temporal Transformer and Q of the depth Transformer, both over caches (Défossez et al.
2024, arXiv 2410.00037, section 3.4). The user is heard up to the frame before.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from speechdst.data.batch import pytree
from speechdst.decoding.decode import attend_cached
from speechdst.models.attention import NEGATIVE
from speechdst.models.depth import UNGENERATED
from speechdst.models.multistream import MultiStreamLM, MultiStreamLMConfig
from speechdst.sharding import constrain
from speechdst.training.state import model_of


@dataclasses.dataclass(frozen=True)
class Sampling:
    """`temperature` 0: the best; `top_k` 0: among all. The defaults are those of Moshi's code."""

    text_temperature: float = 0.7
    text_top_k: int = 25
    audio_temperature: float = 0.8
    audio_top_k: int = 250


@pytree
class State:
    """Of B conversations in step. `step` int32: the frame that comes next; `own` int32 [B, 1 + Q]:
    text and own codes at the position before; `said`, `heard` int32 [B, 1 + longest delay, Q]: own
    codes by position and the user's by frame, the newest last; `keys`, `values` [layers, B, slots,
    kv heads, head width], a ring; `key`: uint32 [2], base of all randomness."""

    step: jax.Array
    own: jax.Array
    said: jax.Array
    heard: jax.Array
    keys: jax.Array
    values: jax.Array
    key: jax.Array


@pytree
class Frame:
    """`placed` int32 [B, 1 + Q]: text and own codes of this position, codes still delayed; `logp`
    float32 [B, 1 + Q]: their log-probabilities at temperature 1 (0 for initial tokens); `codes`
    int32 [B, Q]: the newest frame of which all codes are there, `UNGENERATED` before the first."""

    placed: jax.Array
    logp: jax.Array
    codes: jax.Array


def start(config: MultiStreamLMConfig, rows: int, slots: int, seed: int = 0) -> State:
    """Before the first frame of `rows` conversations. `slots`: how many frames back the cache
    reaches; without a window of its own in the config a layer sees no further."""
    c, q = config.decoder.transformer, config.codebooks
    ring = jnp.zeros((c.layers, rows, slots, c.kv_heads, c.head_dim), config.dtype)
    history = jnp.full((rows, 1 + max(config.delays), q), config.card, jnp.int32)
    own = jnp.tile(jnp.array(config.initial[: 1 + q], jnp.int32), (rows, 1))
    # `step` takes over the arrays of its state, so that none may be there twice.
    return State(jnp.zeros((), jnp.int32), own, history, history.copy(), ring, ring.copy(),
                 jax.random.key_data(jax.random.key(seed)))


def free(rows: int, codebooks: int, *frames: int) -> jax.Array:
    """`forced` of `step` (or with `frames` of `run`) that leaves everything to the model."""
    return jnp.full((rows, *frames, 1 + codebooks), UNGENERATED, jnp.int32)


@functools.partial(jax.jit, static_argnames=("graph", "sampling"), donate_argnames="state")
def step(params, state: State, user, forced, pad_bonus=0.0, *, graph,
         sampling: Sampling = Sampling()) -> tuple[State, Frame]:
    """One frame of every conversation. The state that goes in is used up.

    Args:
      user: int32 [B, Q], the user's codes in the frame before (at the first frame: of no meaning).
      forced: int32 [B, 1 + Q], text and codes of this position, delayed as the model reads them
        (`data.frames.delayed`); what is `UNGENERATED` there is the model's to choose. EPAD as text
        makes it speak.
      pad_bonus: added to the logit of PAD: more makes it more silent.
    """
    return _step(model_of(graph, params), state, user, forced, pad_bonus, sampling)


@functools.partial(jax.jit, static_argnames=("graph", "sampling"), donate_argnames="state")
def run(params, state: State, user, forced, pad_bonus=0.0, *, graph,
        sampling: Sampling = Sampling()) -> tuple[State, Frame]:
    """n steps in one program: `user` [B, n, Q] and `forced` [B, n, 1 + Q] by step; the frames come
    back stacked, [B, n, ...]."""
    model = model_of(graph, params)
    by_step = lambda x: jnp.moveaxis(x, 1, 0)
    state, frames = jax.lax.scan(
        lambda state, x: _step(model, state, *x, pad_bonus, sampling), state,
        (by_step(user), by_step(forced)))
    return state, jax.tree.map(by_step, frames)


def _step(model: MultiStreamLM, state: State, user, forced, pad_bonus, sampling: Sampling):
    c, now = model.config, state.step
    heard = jnp.concatenate([state.heard[:, 1:], user[:, None]], 1)
    heard = jnp.where(now == 0, state.heard, heard)
    theirs = jnp.stack([heard[:, -1 - delay, q] for q, delay in enumerate(c.delays)], 1)
    hidden, (keys, values) = _temporal(
        model, state, jnp.concatenate([state.own[:, 1:], theirs], 1)[:, None])

    random = jax.random.fold_in(jax.random.wrap_key_data(state.key), now)
    logits = model.decoder.logits(hidden)
    bonus = jnp.where(jnp.arange(logits.shape[-1]) == c.pad, pad_bonus, 0.0)
    drawn = sample(logits + bonus, jax.random.fold_in(random, 0), sampling.text_temperature,
                   sampling.text_top_k)
    placed = [jnp.where(forced[:, 0] == UNGENERATED, drawn, forced[:, 0])]
    logp = [_logp(logits, placed[0])]
    cache = model.depth.cache(len(user), hidden.dtype)
    for q, delay in enumerate(c.delays):
        logits, cache = model.depth.step(q, hidden, placed[q], cache)
        drawn = sample(logits, jax.random.fold_in(random, 1 + q), sampling.audio_temperature,
                       sampling.audio_top_k)
        code = jnp.where(forced[:, 1 + q] == UNGENERATED, drawn, forced[:, 1 + q])
        placed.append(jnp.where(now < delay, c.card, code))
        logp.append(_logp(logits, placed[-1]))
    own = jnp.stack(placed, 1)

    said = jnp.concatenate([state.said[:, 1:], own[:, None, 1:]], 1)
    longest = max(c.delays)
    codes = jnp.stack([said[:, delay - longest - 1, q] for q, delay in enumerate(c.delays)], 1)
    frame = Frame(own, jnp.stack(logp, 1), jnp.where(now < longest, UNGENERATED, codes))
    return State(now + 1, own, said, heard, keys, values, state.key), frame


def _temporal(model: MultiStreamLM, state: State, codes):
    """(hidden [B, width], (keys, values)) at the next position, which reads `codes` [B, 1, 2Q]."""
    slots, now = state.keys.shape[2], state.step
    # How many positions before this one a slot stands; this one's own holds the oldest until then.
    back = ((now - jnp.arange(slots)) % slots)[None, None]
    sees = (back > 0) & (back <= now)

    def attend(q, k, v, cache, **rules):
        own = jnp.zeros_like(k[:, :, None])
        return attend_cached(q, k, v, (*cache, own, own), sees=sees, distance=back, step=0, **rules)

    x = model.embed(state.own[:, :1], codes)
    positions = jnp.full((len(x), 1), now)
    hidden, new = model.decoder(x, positions, attend, (state.keys, state.values))
    # Written once for all layers, in place.
    write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new[:, :, 0], now % slots, 2)
    cache = map(write, (state.keys, state.values), new)
    return hidden[:, 0], tuple(constrain(x, "cache") for x in cache)


def sample(logits, key, temperature: float, top_k: int):
    """float32 [B, V] -> int32 [B]."""
    if temperature == 0:
        return logits.argmax(-1).astype(jnp.int32)
    if 0 < top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, NEGATIVE, logits)
    return jax.random.categorical(key, logits / temperature).astype(jnp.int32)


def _logp(logits, chosen):
    """[B]; 0 for what is no class: initial and zero tokens."""
    known = (chosen >= 0) & (chosen < logits.shape[-1])
    found = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.where(known, chosen, 0)[:, None], 1)
    return jnp.where(known, found[:, 0], 0.0)
