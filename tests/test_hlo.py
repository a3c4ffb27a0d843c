# ruff: noqa: E501
"""Programs' texts, small enough to count by hand, and one that XLA made for this machine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from speechdst import hlo
from speechdst.hlo import Collective

LOOP = """HloModule jit_step, is_scheduled=true, num_partitions=8

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%inside (p0: bf16[6,16,64], p1: s32[]) -> bf16[1,16,64] {
  %p0 = bf16[6,16,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = bf16[1,16,64]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,16,64}
}

%body (state: (s32[], bf16[6,16,64], f32[4,64])) -> (s32[], bf16[6,16,64], f32[4,64]) {
  %state = (s32[]{:T(128)}, bf16[6,16,64]{2,1,0:T(8,128)(2,1)}, /*index=2*/f32[4,64]{1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %w = bf16[6,16,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %x = f32[4,64]{1,0} get-tuple-element(%state), index=2
  %layer = bf16[1,16,64]{2,1,0:T(8,128)(2,1)} fusion(%w, %i), kind=kLoop, calls=%inside
  %flat = bf16[16,64]{1,0} bitcast(%layer)
  %whole = bf16[64,64]{1,0} all-gather(%flat), channel_id=1, replica_groups=[2,4]<=[2,4], dimensions={0}, use_global_device_ids=true
  %y = f32[4,64]{1,0} dot(%x, %whole), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %next = (s32[], bf16[6,16,64], f32[4,64]) tuple(%i, %w, %y)
}

%condition (state.1: (s32[], bf16[6,16,64], f32[4,64])) -> pred[] {
  %state.1 = (s32[], bf16[6,16,64], f32[4,64]) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %length = s32[] constant(6)
  ROOT %less = pred[] compare(%i.1, %length), direction=LT
}

%taken (t: f32[4,64]) -> f32[4,64] {
  %t = f32[4,64]{1,0} parameter(0)
  ROOT %square = f32[4,64]{1,0} multiply(%t, %t)
}

%empty (e: f32[4,64]) -> f32[4,64] {
  ROOT %e = f32[4,64]{1,0} parameter(0)
}

ENTRY %main (w.2: bf16[6,16,64], x.2: f32[4,64], which: pred[]) -> f32[4,64] {
  %w.2 = bf16[6,16,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %x.2 = f32[4,64]{1,0} parameter(1)
  %which = pred[] parameter(2)
  %start = s32[] constant(0)
  %begin = (s32[], bf16[6,16,64], f32[4,64]) tuple(%start, %w.2, %x.2)
  %loop = (s32[], bf16[6,16,64], f32[4,64]) while(%begin), condition=%condition, body=%body
  %out = f32[4,64]{1,0} get-tuple-element(%loop), index=2
  %either = f32[4,64]{1,0} conditional(%which, %out, %out), true_computation=%taken, false_computation=%empty
  %kernel = f32[4,64]{1,0:T(8,128)S(1)} custom-call(%either), custom_call_target="tpu_custom_call"
  %gathered = (f32[4,64]{1,0:T(8,128)S(1)}, f32[8,64]{1,0}) all-gather-start(%kernel), replica_groups={{0,4},{1,5},{2,6},{3,7}}, dimensions={0}
  %whole.2 = f32[8,64]{1,0} all-gather-done(%gathered)
  ROOT %reduced = f32[4,64]{1,0} all-reduce(%either), channel_id=2, replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%sum
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    program = hlo.analyze(LOOP)
    assert set(program.collectives) == {
        Collective("all-gather", 64 * 64 * 2, (0, 1, 2, 3), 6),
        Collective("all-gather", 2 * 4 * 64 * 4, (0, 4), 1),
        Collective("all-reduce", 4 * 64 * 4, (0, 4), 1)}
    assert program.flops == 6 * 2 * 4 * 64 * 64
    assert (program.unknown_loops, program.kernels) == (0, 1)
    x, layer, whole = 4 * 64 * 4, 16 * 64 * 2, 64 * 64 * 2
    # Of the stacked weights a turn reads its layer; what lies in a core's own memory is free.
    turn = (2 * layer + 4) + (layer + whole) + (x + whole + x)
    branch, kernel, gather, reduction = 3 * x, x, 8 * 64 * 4, 2 * x
    assert program.bytes == 6 * turn + branch + kernel + gather + reduction
    assert program.bytes - hlo.analyze(LOOP, taken=0.5).bytes == branch / 2


def test_a_loop_whose_length_depends_on_data_is_counted_once_and_told():
    program = hlo.analyze(LOOP.replace("constant(6)", "get-tuple-element(%state.1), index=0"))
    assert program.unknown_loops == 1 and program.flops == 2 * 4 * 64 * 64
    known = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}')
    assert hlo.analyze(known).flops == 3 * 2 * 4 * 64 * 64


def test_a_loop_may_do_the_work_of_two_rounds_in_one():
    """As those do in which an operand goes around: counted in u32, two at once, seven in all."""
    twice = LOOP.replace("s32[] constant(6)", "u32[] constant(7)").replace("s32[]", "u32[]").replace(
        "  ROOT %next", "  %two = u32[] constant(2)\n  %on = u32[] add(%i, %two)\n  ROOT %next"
    ).replace("tuple(%i, %w, %y)", "tuple(%on, %w, %y)")
    program = hlo.analyze(twice)
    assert (program.unknown_loops, program.flops) == (0, 4 * 2 * 4 * 64 * 64)


@pytest.mark.parametrize(("groups", "expected"), [
    ("{{0,2},{1,3}}", (0, 2)), ("[2,4]<=[8]", (0, 1, 2, 3)), ("[4,2]<=[2,4]T(1,0)", (0, 4)),
    ("mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)), ("mesh['a'=2,'b'=4] {'a'}", (0, 4)),
    ("mesh['a'=8] {'a':(2)2}", (0, 2)), ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", (0, 1, 4, 5)),
    ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3))])
def test_groups_of_every_notation(groups, expected):
    text = LOOP.replace("[2,4]<=[2,4]", groups)
    assert expected in {c.group for c in hlo.analyze(text).collectives if c.times == 6}


@pytest.mark.parametrize(("left", "right", "labels", "window", "out", "expected"), [
    # a product
    ("32,64", "64,128", "bf_io->bf", "", "32,128", 2 * 32 * 64 * 128),
    # a convolution of stride 2 with one zero on either side: all taps but two meet something
    ("8,10,4", "3,4,6", "b0f_0io->b0f", "window={size=3 stride=2 pad=1_0},", "8,5,6",
     2 * 8 * 4 * 6 * 14),
    # eight products of a batch, as TPUs have them: seven of eight taps meet holes
    ("8,32,16", "8,16,24", "0bf_0io->0bf",
     "window={size=8 stride=7 pad=0_0 lhs_dilate=8},", "8,32,24", 8 * 2 * 32 * 16 * 24)])
def test_convolutions_count_taps_that_meet_something(left, right, labels, window, out, expected):
    text = f"""HloModule m

ENTRY %main (a: f32[{left}], b: f32[{right}]) -> f32[{out}] {{
  %a = f32[{left}] parameter(0)
  %b = f32[{right}] parameter(1)
  ROOT %c = f32[{out}] convolution(%a, %b), {window} dim_labels={labels}
}}
"""
    assert hlo.analyze(text).flops == expected


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY computation"):
        hlo.analyze("HloModule nothing")


def test_what_xla_makes_of_a_scanned_stack():
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    lay = lambda shape, *axes: jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=NamedSharding(mesh, P(*axes)))

    def loss(w, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0].sum()

    args = lay((6, 64, 64), None, "fsdp"), lay((32, 64), ("data", "fsdp"))
    compiled = jax.jit(jax.grad(loss)).lower(*args).compile()
    program = hlo.analyze(compiled.as_text())
    np.testing.assert_allclose(program.flops, 6 * 3 * 2 * 8 * 64 * 64)
    assert compiled.cost_analysis()["flops"] < program.flops / 3, "it has learnt to count loops"
    gathers = [c for c in program.collectives if c.kind == "all-gather"]
    assert sum(c.times for c in gathers) == 12, "each layer forward and backward"
    assert {c.bytes for c in gathers} == {64 * 64 * 4}
