"""Layout and packing: what a position sees, where it stands, and that blocks cover exactly."""

import dataclasses

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from speechdst.data import tree as T
from speechdst.models.attention import visible

FEATURES = np.ones((4, 3), np.float32)
TABLE = T.Table("speech", 4, 8, soft=3, transcript=2)


@st.composite
def trees(draw):
    """Random trees: text and soft segments, branches from anywhere, also before everything."""
    used = []

    def segments(least):
        made = []
        for _ in range(draw(st.integers(least, 3))):
            if draw(st.booleans()) and len(used) < 4:
                used.append(T.Utterance(FEATURES * (len(used) + 1)))
                made.append(T.Soft(len(used) - 1, draw(st.integers(1, 3))))
            else:
                ids = draw(st.lists(st.integers(1, 99), min_size=1, max_size=4))
                made.append(T.Tokens(ids, draw(st.booleans())))
        return tuple(made)

    trunk = segments(0)
    branches = tuple(
        T.Branch(draw(st.integers(0, len(trunk))), segments(1))
        for _ in range(draw(st.integers(0, 3)))
    )
    return T.DialogueTree(trunk, branches, tuple(used))


def units(segments):
    """What stands at each place of some segments: ("token", id) or ("soft", utterance, offset)."""
    for s in segments:
        if isinstance(s, T.Tokens):
            yield from (("token", int(i), s.loss) for i in s.ids)
        else:
            yield from (("soft", s.utterance, i) for i in range(s.length))


def definition(tree):
    """Straight from the meaning of a tree: every position's content and what it has read, itself
    included, in order of reading; and what it is to predict (None: nothing)."""
    trunk = list(units(tree.trunk))
    result = []

    def run(before, own, keep):
        for i in range(keep):
            following = own[i + 1] if i + 1 < len(own) else ("none",)
            target = following[1] if following[0] == "token" and following[2] else None
            result.append(
                (own[i][:2] if own[i][0] == "token" else own[i], before + own[: i + 1], target)
            )

    run([], trunk, len(trunk))
    for b in tree.branches:
        own = list(units(b.segments))
        run(list(units(tree.trunk[: b.after])), own, len(own) - 1)
    return result


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(trees(), max_size=3), st.integers(0, 2))
def test_positions_see_what_the_definition_says(forest, slack):
    total = sum(map(T.length, forest))
    shape = T.RowShape(
        -(-total // 4) * 4 + 4 * slack, (dataclasses.replace(TABLE, count=12),), 4, channels=3
    )
    row = T.pack(forest, shape)
    expected = [(i, *p) for i, tree in enumerate(forest) for p in definition(tree)]
    assert len(expected) == total
    soft = row["tables"][0]["features"][:, 0, 0]
    assert soft.sum() == sum(u.features[0, 0] for t in forest for u in t.utterances)

    def content(place):
        if row["soft"][place] < 0:
            return "token", int(row["tokens"][place])
        slot, offset = divmod(int(row["soft"][place]), TABLE.soft)
        return "soft", int(soft[slot]) - 1, offset

    key = np.arange(shape.positions)
    for q in range(shape.positions):
        sees = key[visible(q, key, row["trunk_start"][q], row["fork"][q], row["branch_start"][q])]
        if q >= total:
            assert sees.tolist() == [q] and row["tree"][q] == -1 and not row["loss_weight"][q]
            continue
        tree, own, reads, target = expected[q]
        assert content(q) == own
        assert [content(k) for k in sees] == [u[:2] if u[0] == "token" else u for u in reads]
        # Positions count what has been read, so they go on from the fork.
        assert row["positions"][q] == len(reads) - 1
        assert row["tree"][q] == tree
        assert row["loss_weight"][q] == (target is not None)
        if target is not None:
            assert row["targets"][q] == target
    branches = [b for tree in forest for b in tree.branches]
    counts = [max(sum(1 for _ in units(b.segments)) - 1, 0) for b in branches]
    found = [int((row["branch"] == i).sum()) for i in range(len(branches))]
    assert found == counts


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(trees(), max_size=3), st.sampled_from([1, 2, 4, 8]))
def test_block_lists_cover_exactly(forest, block):
    total = -(-max(sum(map(T.length, forest)), 1) // 8) * 8
    row = T.pack(forest, T.RowShape(total, (dataclasses.replace(TABLE, count=12),), block, 3))
    at, n = np.arange(total), total // block
    mask = visible(
        at[:, None],
        at[None],
        row["trunk_start"][:, None],
        row["fork"][:, None],
        row["branch_start"][:, None],
    )
    tiles = mask.reshape(n, block, n, block)
    lists, some, every = row["blocks"], tiles.any((1, 3)), tiles.all((1, 3))
    for names, seen, whole in (
        (("keys", "key_counts", "whole_keys"), some, every),
        (("queries", "query_counts", "whole_queries"), some.T, every.T),
    ):
        found, counts, wholes = (lists[name] for name in names)
        for i in range(n):
            assert found[i, : wholes[i]].tolist() == np.flatnonzero(whole[i]).tolist()
            rest = np.flatnonzero(seen[i] & ~whole[i]).tolist()
            assert found[i, wholes[i] : counts[i]].tolist() == rest


def test_a_branch_may_be_empty():
    tree = T.DialogueTree((T.Tokens([1, 2]),), (T.Branch(1, ()), T.Branch(1, (T.Tokens([3]),))))
    assert T.length(tree) == len(T.layout(tree)) == 2


@pytest.mark.parametrize(
    "forest",
    [
        [T.DialogueTree((T.Tokens(range(9)),), ())],
        [T.DialogueTree((T.Tokens(range(5)),), ()), T.DialogueTree((T.Tokens(range(4)),), ())],
        [T.DialogueTree((T.Soft(0, 1),), (), (T.Utterance(np.ones((9, 3))),))],
        [T.DialogueTree((), (), (T.Utterance(FEATURES),) * 5)],
    ],
    ids=["too long", "too long together", "utterance too long", "too many utterances"],
)
def test_pack_refuses_what_does_not_fit(forest):
    with pytest.raises(ValueError, match="does not fit"):
        T.pack(forest, T.RowShape(8, (TABLE,), 4, 3))


def test_positions_must_be_a_multiple_of_the_block():
    with pytest.raises(ValueError, match="no multiple of the attention block 4"):
        T.pack([], T.RowShape(6, (), 4, 3))


def test_a_transcript_over_the_bound_is_left_out_whole():
    said = T.Utterance(FEATURES, transcript=np.array([5, 6, 7], np.int32))
    row = T.pack([T.DialogueTree((T.Soft(0, 1),), (), (said,))], T.RowShape(8, (TABLE,), 4, 3))
    assert row["tables"][0]["lengths"].tolist() == [4, 0, 0, 0]
    assert not row["tables"][0]["transcript_lengths"].any()
    assert not row["tables"][0]["transcripts"].any()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(0, 12), max_size=6), st.lists(st.integers(0, 2), min_size=3, max_size=3)
)
def test_place_finds_room_whenever_there_is_some(sizes, used):
    tables = tuple(T.Table("speech", 2, size, 1) for size in (4, 8, 12))
    placed = T.place(sizes, T.RowShape(8, tables), used)
    # Tables are nested, so there is room if and only if it suffices above every size.
    room = all(
        sum(s > low for s in sizes) <= sum(2 - u for u in used[j:])
        for j, low in enumerate((-1, 4, 8))
    )
    assert (placed is not None) == room
    if placed is not None:
        assert all(s <= tables[j].size for s, j in zip(sizes, placed, strict=True))
        assert all(placed.count(j) + used[j] <= 2 for j in range(3))


def test_branches_hold_what_the_answers_are():
    (tree,) = tiny.builder("text_history").trees(tiny.dialogue(np.random.default_rng(0), 3))
    flat = T.layout(tree)
    for i, b in enumerate(tree.branches):
        predicted = flat.targets[(flat.branch == i) & (flat.loss_weight > 0)]
        assert predicted.tolist() == list(b.segments[-1].ids)
