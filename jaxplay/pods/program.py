"""The memory traffic and collectives of a compiled program.

Both are read from XLA's text of the program (HLO) of one device, because XLA's
own cost analysis counts the body of a loop only once.
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
  """A collective operation of a step.

  Attributes:
    kind: Kind of the collective, such as `all-gather`.
    bytes: Bytes of the whole array that is gathered, reduced or exchanged, on
      one device, each time.
    group: Devices of its first group, as positions in the program's order.
    times: How often a step executes it.
    between_slices: Whether hosts exchange data between slices; then `group`
      has slices.
  """

  kind: str
  bytes: float
  group: tuple[int, ...]
  times: int
  between_slices: bool = False

  @property
  def wire_bytes(self) -> float:
    """Minimum number of bytes that each device receives in a step.

    By a ring algorithm: (n - 1) / n of the array, and twice that for an
    all-reduce, which is a reduce-scatter and an all-gather (Thakur et al. 2005,
    doi 10.1177/1094342005051521).
    """
    n = len(self.group)
    share = 1 if self.kind == "collective-permute" else (n - 1) / n
    passes = 2 if self.kind == "all-reduce" else 1
    return self.times * passes * share * self.bytes


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Memory traffic and collectives of a step, on one device.

  Attributes:
    memory_bytes: Bytes read from and written to the device's memory: operands
      and results of each instruction, where a fusion is one instruction, and
      arrays in faster memory do not count.
    collectives: The collectives.
    unknown_loops: Number of loops with an unknown trip count; they count as one
      iteration.
  """

  memory_bytes: float
  collectives: tuple[Collective, ...]
  unknown_loops: int


def traffic(text: str) -> Traffic:
  """Returns the traffic of a compiled program.

  Args:
    text: The program's text, from `compiled.as_text()` of JAX.
  """
  return _Program(text).traffic()


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  argument: str  # the text in parentheses
  rest: str  # the text after them
  is_root: bool

  def attribute(self, name):
    """Returns the name of the computation of an attribute."""
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
      elif current is not None and (instruction := _instruction(line)):
        current.append(instruction)
    self._shapes = {
      name: {i.name: i.shape for i in instructions}
      for name, instructions in self._computations.items()
    }

  def traffic(self):
    memory, collectives, unknown = self._of(self._entry)
    return Traffic(memory, _merged(collectives), unknown)

  @functools.cache  # noqa: B019
  def _of(self, name):
    """Returns (bytes of memory, collectives, loops of unknown trip count)."""
    memory, collectives, unknown, channels = 0.0, [], 0, set()
    for op in self._computations[name]:
      trips, inner = 1, []
      if op.opcode == "while":
        inner = [op.attribute("body")]
        trips = self._trip_count(name, op)
        unknown += trips is None
        trips = trips or 1
      elif op.opcode == "conditional":
        # The branch with the largest memory traffic.
        branches = map(self._of, _branches(op))
        cost = max(branches, default=(0, [], 0), key=lambda c: c[0])
        memory, unknown = memory + cost[0], unknown + cost[2]
        collectives += cost[1]
      elif op.opcode in ("call", "async-start"):
        inner = [op.attribute("to_apply") or op.attribute("calls")]
      elif op.opcode == "fusion":
        # Only its operands and results use memory, but it may contain a
        # collective, or a part of an asynchronous one.
        for channel, collective in self._in_fusion(op.attribute("calls")):
          if channel is None or channel not in channels:
            collectives.append(collective)
          channels.add(channel)
      for computation in filter(None, inner):
        of_inner, part, more = self._of(computation)
        memory, unknown = memory + trips * of_inner, unknown + more
        collectives += [
          dataclasses.replace(c, times=trips * c.times) for c in part
        ]
      kind = op.opcode.removesuffix("-start")
      if kind in _COLLECTIVES:
        collectives.append(self._collective(name, op, kind))
      if op.opcode == "send" and (between := self._between(name, op)):
        collectives.append(between)
      memory += self._bytes(name, op)
    return memory, collectives, unknown

  def _in_fusion(self, name):
    """Yields (channel, collective) for each collective in a fusion."""
    for op in self._computations.get(name, []):
      if op.opcode in _COLLECTIVES:
        channel = re.search(r"channel_id=(\d+)", op.rest)
        yield channel and channel[1], self._collective(name, op, op.opcode)
      elif op.opcode == "fusion":
        yield from self._in_fusion(op.attribute("calls"))

  def _trip_count(self, computation, loop):
    """Returns the trip count of a loop; None: unknown.

    If the text does not state it, it follows from a counter that is compared
    with a constant, and to which the body adds a constant.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
    if known:
      return int(known[1])
    condition = self._named(loop.attribute("condition"))
    body = self._named(loop.attribute("body"))
    before = self._named(computation)
    test = next((op for op in condition.values() if op.is_root), None)
    if test is None or test.opcode != "compare" or "LT" not in test.rest:
      return None
    counter, bound = (condition.get(name) for name in test.operands)
    place = counter and re.search(r"index=(\d+)", counter.rest)
    carried = before.get(loop.operands[0])
    after = next((op for op in body.values() if op.is_root), None)
    if not place or carried is None or carried.opcode != "tuple":
      return None
    place = int(place[1])
    first = _through(before[carried.operands[place]], before)
    step = body.get(after.operands[place])
    if step is None or step.opcode != "add":
      return None
    steps = [body[name] for name in step.operands if name in body]
    numbers = [
      int(op.argument)
      for op in (bound, first, *steps)
      if op and op.opcode == "constant" and op.argument.isdigit()
    ]
    if len(numbers) != 3:
      return None
    bound, first, step = numbers
    return max(0, -(-(bound - first) // step))

  @functools.cache  # noqa: B019
  def _named(self, computation):
    return {op.name: op for op in self._computations.get(computation, [])}

  def _collective(self, computation, op, kind):
    shapes = self._shapes[computation]
    moved = sum(_bytes(shapes.get(name, "")) for name in op.operands)
    group = _group(op.rest)
    if kind == "all-gather":
      moved *= len(group)
    return Collective(kind, moved, group, 1)

  def _between(self, computation, op):
    """Returns the collective between slices of a host's send, if it is one."""
    kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', op.rest)
    slices = re.search(r'_xla_megascale_target="\{([\d,:]+)\}', op.rest)
    if not kind or not slices:
      return None
    number = 0
    for part in slices[1].split(","):  # "1,2" or "0:3"
      first, _, last = part.partition(":")
      number += int(last or first) - int(first) + 1
    return Collective(
      kind=kind[1].lower().replace("_", "-"),
      bytes=_bytes(self._shapes[computation].get(op.operands[0], "")),
      group=tuple(range(number)),
      times=1,
      between_slices=True,
    )

  def _bytes(self, computation, op):
    """Returns the memory traffic of an instruction."""
    opcode = op.opcode
    if opcode in _FREE or opcode.endswith(("-done", "-update")):
      return 0.0
    if opcode == "async-start":
      return 0.0  # Its computation is counted separately.
    shapes = self._shapes[computation]
    sizes = [_slow_bytes(shapes.get(name, "")) for name in op.operands]
    result = _slow_bytes(op.shape)
    if opcode.endswith("-start"):
      # Its result is a tuple that begins with input and output (for a copy,
      # output and input).
      parts = _parts(op.shape)
      to = parts[0 if opcode == "copy-start" else 1]
      moved = _bytes(to) if "slice" in opcode else _bytes(parts[0])
      return (moved if any(sizes) else 0.0) + _slow_bytes(to)
    if opcode == "custom-call" and "AllocateBuffer" in op.rest:
      return 0.0
    if opcode in _SLICES:
      return 2 * result
    elif opcode == "dynamic-update-slice":
      return 2 * sizes[1]  # in place
    elif opcode == "fusion":
      fused = op.attribute("calls")
      sizes = [
        self._read(fused, *place_size) for place_size in enumerate(sizes)
      ]
      result = min(result, self._written(fused))
    return sum(sizes) + result

  def _read(self, fused, place, size):
    """Returns the bytes that a fusion reads of an operand of `size` bytes.

    If the operand is only sliced, as the stacked inputs of a scan, it reads the
    slices. It does not read an operand that it updates in place. Fusions may be
    nested.
    """
    by_name, users = self._named(fused), self._users(fused)
    parameter = next(
      (
        op
        for op in by_name.values()
        if op.opcode == "parameter" and op.argument == str(place)
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
          names.append(user.name)
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
    """Returns the bytes that a fusion writes; in place, only the update."""
    by_name = self._named(fused)
    roots = [op for op in by_name.values() if op.is_root]
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
    for op in self._computations.get(computation, []):
      for name in op.operands:
        users.setdefault(name, []).append(op)
    return users


def _through(op, by_name):
  """Follows bitcasts, copies and conversions back to their source."""
  while op.opcode in ("bitcast", "copy", "convert", "reshape"):
    if op.operands[0] not in by_name:
      break
    op = by_name[op.operands[0]]
  return op


def _updates(use, parameter, by_name):
  """Whether an instruction updates a slice of a parameter in place."""
  if use.opcode != "dynamic-update-slice" or use.operands[0] not in by_name:
    return False
  return _through(by_name[use.operands[0]], by_name) is parameter


def _instruction(line):
  """Parses a line such as "  ROOT %x = f32[8]{0} add(%a, %b), metadata={}"."""
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
  """Returns the index of the parenthesis that closes the one at `start`."""
  depth = 0
  for i in range(start, len(text)):
    depth += {"(": 1, ")": -1}.get(text[i], 0)
    if depth == 0:
      return i
  return len(text)


def _branches(op):
  """Returns the names of a conditional's computations."""
  found = re.search(r"branch_computations=\{([^}]*)\}", op.rest)
  if found:
    return re.findall(r"%?([\w.\-]+)", found[1])
  names = map(op.attribute, ("true_computation", "false_computation"))
  return list(filter(None, names))


def _parts(shape):
  """Returns the arrays of a shape, such as "f32[8,128]{1,0:T(8,128)S(1)}"."""
  return re.findall(r"\w+\[[\d,<=]*\](?:\{[^}]*\})?", shape)


def _bytes(shape):
  return sum(map(_array_bytes, _parts(shape)))


def _slow_bytes(shape):
  """Returns the bytes of a shape in main memory, which is space 0."""
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
  """Returns the devices of a collective's first group, by position."""
  listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
  if listed:
    return tuple(int(i) for i in listed[1].split(",") if i)
  # "[8,2]<=[2,4,2]T(1,0,2)": all devices, reshaped, transposed, and split.
  made = re.search(
    r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest
  )
  if made:
    sizes = [int(i) for i in made[3].split(",")]
    places = np.arange(math.prod(sizes)).reshape(sizes)
    if made[4]:
      places = places.transpose([int(i) for i in made[4].split(",")])
    return tuple(places.reshape(int(made[1]), int(made[2]))[0].tolist())
  # "mesh['a'=2,'b'=4] {'b'}": devices along some axes of a mesh.
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
  """Merges equal collectives; leaves out groups of a single device."""
  times: dict = {}
  for op in collectives:
    if len(op.group) > 1:
      once = dataclasses.replace(op, times=1)
      times[once] = times.get(once, 0) + op.times
  merged = [dataclasses.replace(o, times=n) for o, n in times.items()]
  return tuple(sorted(merged, key=lambda op: -op.wire_bytes))
