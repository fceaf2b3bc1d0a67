"""What a compiled program moves: bytes of memory, and collectives.

Read from XLA's text of the program (HLO), which is that of one device, because
XLA's own cost analysis counts the body of a loop once, however often it runs.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterable

import numpy as np

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
)
# Instructions that compute nothing, or that belong to another instruction.
_FREE = (
  "parameter",
  "constant",
  "tuple",
  "get-tuple-element",
  "bitcast",
  "after-all",
  "partition-id",
  "replica-id",
  "opt-barrier",
  "domain",
  "while",
  "conditional",
  "call",
  "custom-call-done",
)
_SLICES = ("dynamic-slice", "gather", "slice")


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange among devices, as often as a step makes it.

  Attributes:
    kind: Such as `all-gather`.
    bytes: Of the whole array that is gathered, reduced or exchanged, on one
      device, each time.
    group: Places of the devices of one of its groups, in the program's order.
    times: How often a step makes it.
    between_slices: Whether it is one of slices, by their hosts; then `group` is
      of slices.
  """

  kind: str
  bytes: float
  group: tuple[int, ...]
  times: int
  between_slices: bool = False

  @property
  def wire_bytes(self) -> float:
    """What each device has to receive at least, in a step.

    By a ring, which is the least that there is: (n - 1)/n of the array, and
    twice that for an all-reduce, which is a reduce-scatter and an all-gather
    (Thakur et al. 2005, doi 10.1177/1094342005051521).
    """
    n = len(self.group)
    share = 1 if self.kind == "collective-permute" else (n - 1) / n
    twice = 2 if self.kind == "all-reduce" else 1
    return self.times * twice * share * self.bytes


@dataclasses.dataclass(frozen=True)
class Traffic:
  """What a step moves, on one device.

  Attributes:
    memory_bytes: Read from and written to the device's memory: operands and
      results of each instruction, where fusions count as one and what stays in
      a faster memory does not count.
    collectives: Exchanges among devices.
    unknown_loops: Loops whose trip count the text does not state; they count as
      one iteration.
  """

  memory_bytes: float
  collectives: tuple[Collective, ...]
  unknown_loops: int


def traffic(text: str) -> Traffic:
  """Of a compiled program.

  Args:
    text: From `compiled.as_text()`, of JAX.
  """
  return _Program(text).traffic()


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  argument: str  # what stands in the parentheses
  rest: str  # what comes after them
  is_root: bool

  def attribute(self, name):
    """The computation that an attribute names."""
    found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
    return found and found[1]


class _Program:
  """Computations by name, each a list of instructions."""

  def __init__(self, text):
    self._computations, self._entry, current = {}, None, None
    for line in text.splitlines():
      # "ENTRY %main.42 (a: f32[8]) -> f32[8] {"
      header = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
      if header:
        current = self._computations[header[2]] = []
        self._entry = header[2] if header[1] else self._entry
      elif current is not None and (one := _instruction(line)):
        current.append(one)
    self._shapes = {
      name: {one.name: one.shape for one in instructions}
      for name, instructions in self._computations.items()
    }

  def traffic(self):
    memory, collectives, unknown = self._of(self._entry)
    return Traffic(memory, _merged(collectives), unknown)

  @functools.cache  # noqa: B019
  def _of(self, name):
    """(bytes of memory, collectives, loops of unknown turns)."""
    memory, collectives, unknown, channels = 0.0, [], 0, set()
    for one in self._computations[name]:
      turns, inner = 1, []
      if one.opcode == "while":
        inner = [one.attribute("body")]
        turns = self._turns(name, one)
        unknown += turns is None
        turns = turns or 1
      elif one.opcode == "conditional":
        # The costliest branch.
        branches = map(self._of, _branches(one))
        cost = max(branches, default=(0, [], 0), key=lambda c: c[0])
        memory, unknown = memory + cost[0], unknown + cost[2]
        collectives += cost[1]
      elif one.opcode in ("call", "async-start"):
        inner = [one.attribute("to_apply") or one.attribute("calls")]
      elif one.opcode == "fusion":
        # What it computes stays inside, but it may hold a collective, or a
        # part of one that goes on while others compute.
        for channel, collective in self._in_fusion(one.attribute("calls")):
          if channel is None or channel not in channels:
            collectives.append(collective)
          channels.add(channel)
      for computation in filter(None, inner):
        of_inner, part, more = self._of(computation)
        memory, unknown = memory + turns * of_inner, unknown + more
        collectives += [
          dataclasses.replace(c, times=turns * c.times) for c in part
        ]
      kind = one.opcode.removesuffix("-start")
      if kind in _COLLECTIVES:
        collectives.append(self._collective(name, one, kind))
      if one.opcode == "send" and (between := self._between(name, one)):
        collectives.append(between)
      memory += self._bytes(name, one)
    return memory, collectives, unknown

  def _in_fusion(self, name):
    """Yields (channel, collective) of those in a fusion."""
    for one in self._computations.get(name, []):
      if one.opcode in _COLLECTIVES:
        channel = re.search(r"channel_id=(\d+)", one.rest)
        yield channel and channel[1], self._collective(name, one, one.opcode)
      elif one.opcode == "fusion":
        yield from self._in_fusion(one.attribute("calls"))

  def _turns(self, computation, loop):
    """How often the body of a loop runs; None: not stated in the text.

    Where the compiler does not say so: the loop goes on while a number of what
    it carries is below a constant, and its body adds another to it.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    if known:
      return int(known[1])
    condition = self._named(loop.attribute("condition"))
    body = self._named(loop.attribute("body"))
    before = self._named(computation)
    test = next((one for one in condition.values() if one.is_root), None)
    if test is None or test.opcode != "compare" or "LT" not in test.rest:
      return None
    counter, bound = (condition.get(name) for name in test.operands)
    place = counter and re.search(r"index=(\d+)", counter.rest)
    carried = before.get(loop.operands[0])
    after = next((one for one in body.values() if one.is_root), None)
    if not place or carried is None or carried.opcode != "tuple":
      return None
    place = int(place[1])
    first = _through(before[carried.operands[place]], before)
    step = body.get(after.operands[place])
    if step is None or step.opcode != "add":
      return None
    steps = [body[name] for name in step.operands if name in body]
    numbers = [
      int(one.argument)
      for one in (bound, first, *steps)
      if one and one.opcode == "constant" and one.argument.isdigit()
    ]
    if len(numbers) != 3:
      return None
    bound, first, step = numbers
    return max(0, -(-(bound - first) // step))

  @functools.cache  # noqa: B019
  def _named(self, computation):
    return {one.name: one for one in self._computations.get(computation, [])}

  def _collective(self, computation, one, kind):
    shapes = self._shapes[computation]
    moved = sum(_bytes(shapes.get(name, "")) for name in one.operands)
    group = _group(one.rest)
    if kind == "all-gather":
      moved *= len(group)
    return Collective(kind, moved, group, 1)

  def _between(self, computation, one):
    """A collective of slices: a host sends what it is told, and receives."""
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', one.rest)
    slices = re.search(r'_xla_megascale_target="\{([\d,:]+)\}', one.rest)
    if not kind or not slices:
      return None
    number = 0
    for part in slices[1].split(","):  # "1,2" or "0:3"
      first, _, last = part.partition(":")
      number += int(last or first) - int(first) + 1
    return Collective(
      kind=kind[1].lower().replace("_", "-"),
      bytes=_bytes(self._shapes[computation].get(one.operands[0], "")),
      group=tuple(range(number)),
      times=1,
      between_slices=True,
    )

  def _bytes(self, computation, one):
    """Of one instruction, from and to the device's memory."""
    opcode = one.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")):
      return 0.0
    if opcode == "async-start":
      return 0.0  # Its computation has been counted.
    shapes = self._shapes[computation]
    sizes = [_slow_bytes(shapes.get(name, "")) for name in one.operands]
    result = _slow_bytes(one.shape)
    if opcode.endswith("-start"):
      # Its result is a tuple of what goes in and what comes out (of a copy, the
      # other way round), and more.
      parts = _parts(one.shape)
      to = parts[0 if opcode == "copy-start" else 1]
      moved = _bytes(to) if "slice" in opcode else _bytes(parts[0])
      return (moved if any(sizes) else 0.0) + _slow_bytes(to)
    if opcode == "custom-call" and "AllocateBuffer" in one.rest:
      return 0.0
    if opcode in _SLICES:
      return 2 * result
    elif opcode == "dynamic-update-slice":
      return 2 * sizes[1]  # in place
    elif opcode == "fusion":
      fused = one.attribute("calls")
      sizes = [
        self._read(fused, *place_size) for place_size in enumerate(sizes)
      ]
      result = min(result, self._written(fused))
    return sum(sizes) + result

  def _read(self, fused, place, size):
    """What a fusion reads of its operand at a place, of `size` bytes.

    Of one that is only sliced, as what a scan stacks is, it reads the slice;
    what it updates in place, it does not read. Fusions may be in fusions.
    """
    by_name, users = self._named(fused), self._users(fused)
    parameter = next(
      (
        one
        for one in by_name.values()
        if one.opcode == "parameter" and one.argument == str(place)
      ),
      None,
    )
    if parameter is None:
      return size
    read, names = 0.0, [parameter.name]
    while names:
      name = names.pop()
      for user in users.get(name, []):
        if user.opcode in ("bitcast", "copy", "convert", "reshape"):
          names.append(user.name)  # It moves nothing.
        elif user.opcode in _SLICES:
          read += _slow_bytes(user.shape)
        elif user.opcode == "fusion":
          inner = user.attribute("calls")
          for at, operand in enumerate(user.operands):
            read += self._read(inner, at, size) if operand == name else 0.0
        elif not _updates(user, parameter, by_name):
          return size
    return min(size, read) if users.get(parameter.name) else size

  def _written(self, fused):
    """What a fusion writes: of what it updates in place, the change."""
    by_name = self._named(fused)
    roots = [one for one in by_name.values() if one.is_root]
    if roots and roots[0].opcode == "tuple":
      roots = [by_name[name] for name in roots[0].operands if name in by_name]
    written = 0.0
    for root in roots:
      of = _through(root, by_name)
      if of.opcode == "dynamic-update-slice" and of.operands[1] in by_name:
        written += _slow_bytes(by_name[of.operands[1]].shape)
      elif of.opcode == "fusion":
        written += min(
          _slow_bytes(root.shape), self._written(of.attribute("calls"))
        )
      else:
        written += _slow_bytes(root.shape)
    return written if roots else math.inf

  @functools.cache  # noqa: B019
  def _users(self, computation):
    users = {}
    for one in self._computations.get(computation, []):
      for name in one.operands:
        users.setdefault(name, []).append(one)
    return users


def _through(one, by_name):
  """What a result is, past what moves nothing."""
  while one.opcode in ("bitcast", "copy", "convert", "reshape"):
    if one.operands[0] not in by_name:
      break
    one = by_name[one.operands[0]]
  return one


def _updates(use, parameter, by_name):
  """Whether a parameter is what a dynamic-update-slice changes."""
  if use.opcode != "dynamic-update-slice" or use.operands[0] not in by_name:
    return False
  return _through(by_name[use.operands[0]], by_name) is parameter


def _instruction(line):
  """ "  ROOT %x = f32[8]{0} add(%a, %b), metadata={...}", taken apart."""
  found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$", line)
  if not found:
    return None
  text = found[3]
  end = _closing(text, 0) + 1 if text[0] == "(" else text.find(" ")
  shape, text = text[:end], text[end:].lstrip()
  opcode, _, text = text.partition("(")
  end = _closing("(" + text, 0) - 1
  argument, rest = text[:end], text[end + 1 :]
  return _Instruction(
    name=found[2],
    shape=shape,
    opcode=opcode.strip(),
    operands=tuple(re.findall(r"%([\w.\-]+)", argument)),
    argument=argument.strip(),
    rest=rest,
    is_root=bool(found[1]),
  )


def _closing(text, start):
  """Where the parenthesis that opens at `start` closes."""
  depth = 0
  for i in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[i], 0)
    if depth == 0:
      return i
  return len(text)


def _branches(one):
  """Names of a conditional's computations."""
  found = re.search(r"branch_computations=\{([^}]*)\}", one.rest)
  if found:
    return re.findall(r"%?([\w.\-]+)", found[1])
  names = map(one.attribute, ("true_computation", "false_computation"))
  return list(filter(None, names))


def _parts(shape):
  """The arrays of a shape, nested or not: "f32[8,128]{1,0:T(8,128)S(1)}"."""
  return re.findall(r"\w+\[[\d,<=]*\](?:\{[^}]*\})?", shape)


def _bytes(shape):
  return sum(map(_array_bytes, _parts(shape)))


def _slow_bytes(shape):
  """Of the arrays of a shape in the device's main memory, which is space 0."""
  slow = [part for part in _parts(shape) if not re.search(r"S\([1-9]", part)]
  return sum(map(_array_bytes, slow))


def _array_bytes(part):
  kind, _, sizes = part.partition("[")
  sizes = sizes.partition("]")[0].replace("<=", "")
  number = math.prod(int(size) for size in sizes.split(",") if size)
  return number * _bits(kind) / 8


def _bits(kind):
  if kind in _BITS:
    return _BITS[kind]
  digits = re.match(r"[a-z]+(\d+)", kind)  # f32, bf16, s8, u4, f8e4m3fn, c64
  return int(digits[1]) if digits else 0


def _group(rest):
  """Places of the devices of a collective's first group."""
  listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
  if listed:
    return tuple(int(i) for i in listed[1].split(",") if i)
  # "[8,2]<=[2,4,2]T(1,0,2)": all places, reshaped, transposed, and cut up.
  made = re.search(
    r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest
  )
  if made:
    sizes = [int(i) for i in made[3].split(",")]
    places = np.arange(math.prod(sizes)).reshape(sizes)
    if made[4]:
      places = places.transpose([int(i) for i in made[4].split(",")])
    return tuple(places.reshape(int(made[1]), int(made[2]))[0].tolist())
  # "mesh['a'=2,'b'=4] {'b'}": all places, along some axes of a mesh.
  along = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest)
  if along:
    sizes = re.findall(r"'([^']+)'=(\d+)", along[1])
    places = np.arange(math.prod(int(size) for _, size in sizes))
    places = places.reshape([int(size) for _, size in sizes])
    wanted = re.findall(r"'([^']+)'", along[2])
    index = tuple(slice(None) if axis in wanted else 0 for axis, _ in sizes)
    return tuple(places[index].reshape(-1).tolist())
  pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest)
  return (int(pairs[1]), int(pairs[2])) if pairs else (0,)


def _merged(collectives: Iterable[Collective]) -> tuple[Collective, ...]:
  """One for each kind, size and group; those of one device left out."""
  times: dict = {}
  for one in collectives:
    if len(one.group) > 1:
      once = dataclasses.replace(one, times=1)
      times[once] = times.get(once, 0) + one.times
  merged = [dataclasses.replace(o, times=n) for o, n in times.items()]
  return tuple(sorted(merged, key=lambda one: -one.wire_bytes))
