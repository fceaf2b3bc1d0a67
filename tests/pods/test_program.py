"""Memory traffic and collectives, read from the text of a program."""

import jax
import jax.numpy as jnp
import pytest

from jaxplay.pods import program

_GROUP = "replica_groups=[2,4]<=[8]"


def _text(*lines, before=""):
  """Returns a program with an entry computation of these lines."""
  return "\n".join(
    ["HloModule m", "", before, "ENTRY %main (a: f32[8]) -> f32[8] {"]
    + [f"  {line}" for line in lines]
    + ["}"]
  )


@pytest.mark.parametrize(
  "line, kind, size, group, wire",
  [
    (
      "%x = f32[32]{0} all-gather(%a), dimensions={0}, " + _GROUP,
      *("all-gather", 128, 4, 96),
    ),
    (
      "%x = f32[8]{0} all-reduce(%a), to_apply=%add, " + _GROUP,
      *("all-reduce", 32, 4, 48),
    ),
    (
      "%x = f32[2]{0} reduce-scatter(%a), dimensions={0}, " + _GROUP,
      *("reduce-scatter", 32, 4, 24),
    ),
    (
      "%x = f32[8]{0} all-to-all(%a), dimensions={0}, " + _GROUP,
      *("all-to-all", 32, 4, 24),
    ),
    (
      "%x = f32[8]{0} collective-permute(%a), source_target_pairs={{0,1},"
      "{1,0}}",
      *("collective-permute", 32, 2, 32),
    ),
    (
      "%x = (f32[8]{0}, f32[32]{0}) all-gather-start(%a), dimensions={0}, "
      + _GROUP,
      *("all-gather", 128, 4, 96),
    ),
  ],
)
def test_bytes_of_a_collective(line, kind, size, group, wire):
  """Bytes of the whole array, and on the wire."""
  text = _text("%a = f32[8]{0} parameter(0)", line)
  (found,) = program.traffic(text).collectives
  assert (found.kind, found.bytes, len(found.group)) == (kind, size, group)
  assert found.times == 1 and found.wire_bytes == wire


@pytest.mark.parametrize(
  "groups, first",
  [
    ("replica_groups={{0,2},{1,3}}", (0, 2)),
    ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
    ("replica_groups=mesh['x'=2,'y'=4] {'x'}", (0, 4)),
    ("replica_groups=mesh['x'=2,'y'=2,'z'=2] {'x','z'}", (0, 1, 4, 5)),
  ],
)
def test_groups(groups, first):
  """All formats of replica groups in HLO."""
  text = _text(
    "%a = f32[8]{0} parameter(0)",
    f"%x = f32[8]{{0}} all-reduce(%a), {groups}, to_apply=%add",
  )
  assert program.traffic(text).collectives[0].group == first


_LOOP = """%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %step = s32[] constant(2)
  %next = s32[] add(%i, %step)
  %v = f32[8]{0} get-tuple-element(%p), index=1
  %sum = f32[8]{0} all-reduce(%v), replica_groups={{0,1}}, to_apply=%add
  ROOT %t = (s32[], f32[8]{0}) tuple(%next, %sum)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %bound = s32[] constant(11)
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}
"""


@pytest.mark.parametrize(
  "attributes, times",
  [(', backend_config={"known_trip_count":{"n":"7"}}', 7), ("", 5)],
)
def test_trip_count_of_a_loop(attributes, times):
  """From the compiler, or from the condition and the body."""
  loop = "%w = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body"
  text = _text(
    "%a = f32[8]{0} parameter(0)",
    "%one = s32[] constant(1)",
    "%t = (s32[], f32[8]{0}) tuple(%one, %a)",
    loop + attributes,
    before=_LOOP,
  )
  found = program.traffic(text)
  assert found.collectives[0].times == times and not found.unknown_loops
  # At least the sum of each iteration.
  assert found.memory_bytes >= times * 64


def test_a_collective_in_parts_counts_once():
  """A collective may be split over several fusions with the same channel."""
  inner = "\n".join(
    f"%{name} (p: f32[8]) -> f32[32] {{\n"
    "  %p = f32[8]{0} parameter(0)\n"
    f"  ROOT %g.{name} = f32[32]{{0}} all-gather(%p), channel_id=5,"
    " dimensions={0}, replica_groups={{0,1,2,3}}\n}\n"
    for name in ("begins", "ends")
  )
  text = _text(
    "%a = f32[8]{0} parameter(0)",
    "%b = f32[32]{0} fusion(%a), kind=kLoop, calls=%begins",
    "%e = f32[32]{0} fusion(%a), kind=kLoop, calls=%ends",
    before=inner,
  )
  (found,) = program.traffic(text).collectives
  assert found.times == 1


def test_fast_memory_does_not_count():
  """Arrays in fast memory, S(1), are no main memory traffic."""
  text = _text(
    "%a = f32[8]{0} parameter(0)",
    "%x = f32[8]{0:T(128)S(1)} negate(%a)",
    "%y = f32[8]{0:T(128)S(1)} negate(%x)",
    "ROOT %z = f32[8]{0} negate(%y)",
  )
  assert program.traffic(text).memory_bytes == 64


def _compiled(function, *arguments):
  return jax.jit(function).lower(*arguments).compile()


@pytest.mark.parametrize(
  "function",
  [
    lambda x: jnp.tanh(x @ x) @ x,
    lambda x: jax.nn.softmax(x @ x.T).sum(0),
    lambda x: x.at[3:5].set(1.0) * 2,
  ],
)
def test_as_the_compiler_counts_without_loops(function):
  """Memory traffic agrees with XLA's own analysis."""
  compiled = _compiled(function, jnp.ones((64, 64)))
  counted = compiled.cost_analysis()["bytes accessed"]
  found = program.traffic(compiled.as_text()).memory_bytes
  assert 0.7 * counted < found < 1.3 * counted


def test_a_loop_counts_each_iteration():
  """Each iteration of a scan reads its slice of the weights."""
  weights = jnp.ones((12, 64, 64))

  def scanned(x, weights):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

  def unrolled(x, weights):
    for i in range(12):
      x = jnp.tanh(x @ weights[i])
    return x

  loop, flat = (
    program.traffic(_compiled(f, jnp.ones((64, 64)), weights).as_text())
    for f in (scanned, unrolled)
  )
  assert not loop.unknown_loops
  # The loop also copies each slice.
  assert 0.8 < loop.memory_bytes / flat.memory_bytes < 2.0


@pytest.mark.parametrize("nested", [False, True])
def test_slices_in_fusions(nested):
  """A fusion reads slices and writes updates only, also if it is nested."""
  work = """%work (p: f32[12,8], q: f32[12,8], i: s32[]) -> f32[12,8] {
  %p = f32[12,8]{1,0} parameter(0)
  %q = f32[12,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %s = f32[1,8]{1,0} dynamic-slice(%p, %i), dynamic_slice_sizes={1,8}
  %n = f32[1,8]{1,0} negate(%s)
  ROOT %u = f32[12,8]{1,0} dynamic-update-slice(%q, %n, %i)
}"""
  outer = """
%outer (p: f32[12,8], q: f32[12,8], i: s32[]) -> f32[12,8] {
  %p = f32[12,8]{1,0} parameter(0)
  %q = f32[12,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %b = f32[12,8]{1,0} bitcast(%p)
  ROOT %f = f32[12,8]{1,0} fusion(%b, %q, %i), kind=kLoop, calls=%work
}"""
  text = _text(
    "%a = f32[12,8]{1,0} parameter(0)",
    "%c = f32[12,8]{1,0} parameter(1)",
    "%i = s32[] parameter(2)",
    "ROOT %x = f32[12,8]{1,0} fusion(%a, %c, %i), kind=kOutput,"
    f" calls=%{'outer' if nested else 'work'}",
    before=work + outer,
  )
  slice_, index = 8 * 4, 4
  assert program.traffic(text).memory_bytes == 2 * slice_ + index
