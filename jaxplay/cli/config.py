"""The verb that explains configs: `jaxplay config`."""

import json
import shutil
import textwrap

from jaxplay.api import runs
from jaxplay.cli import common
from jaxplay.config.key import LARGEST
from jaxplay.config.keys import GROUPS

# Columns of "config.key = value", after which the comment begins.
_VALUES = 44
_WRITTEN = ("code", "declared")  # by the program
_NO_BREAK = "\u00a0"


def add(verbs):
  verb = verbs.add_parser(
    "config",
    help="every key of a config: its value, range and meaning",
    description="Prints the keys that apply, of a config or of the default one."
    " Keys of the config are overridden by --config.KEY=VALUE.",
    allow_abbrev=False,
  )
  verb.add_argument(
    "--config", metavar="FILE[:ARG]", help="experiment file, or config.json"
  )
  verb.add_argument(
    "--all",
    action="store_true",
    help="also the keys that have no effect with the others' values",
  )
  verb.add_argument("--json", action="store_true", help="as JSON")
  verb.set_defaults(verb=_config)


def _config(arguments, rest):
  from jaxplay import config as config_lib

  config = runs.load_config(
    {} if arguments.config is None else arguments.config,
    common.overrides(rest, arguments),
  )
  flat = config_lib.flatten(config)
  keys = config_lib.keys_of(flat)
  groups = sorted(keys, key=lambda n: GROUPS.index(n.rpartition(".")[0]))
  shown = {
    name: keys[name]
    for name in groups
    if arguments.all
    or (
      config_lib.has_effect(name, flat)
      and (arguments.json or name not in _WRITTEN)
    )
  }
  if arguments.json:
    print(json.dumps({n: _facts(k, flat[n]) for n, k in shown.items()}))
    return 0
  columns = shutil.get_terminal_size((100, 24)).columns
  group = ""
  for name, key in shown.items():
    if name.rpartition(".")[0] != group:
      group = name.rpartition(".")[0]
      print()
    print(_line(name, key, flat[name], max(columns, _VALUES + 40)))
  if not arguments.all:
    hidden = len(keys) - len(shown)
    print(f"\n{hidden} keys have no effect with these values; --all shows them")
  return 0


def _facts(key, value):
  return {
    "value": value,
    "default": key.default,
    "range": key.within,
    "choices": key.choices,
    "comment": key.comment,
    "used_by": key.used_by,
  }


def _line(name, key, value, columns):
  """A line of a config file, with what there is to know about the key."""
  start = f"config.{name} = {value!r}"
  comment = key.comment
  if key.choices:
    comment += f"; one of {', '.join(key.choices)}"
  if key.within:
    comment += f"; {_range(key.within)}"
  if value != key.default:
    comment += f" (default {key.default!r})"
  lines = textwrap.wrap(comment, columns - _VALUES - 4, break_on_hyphens=False)
  first = f"{start:<{_VALUES}}"
  if len(start) >= _VALUES:
    first = f"{start}\n{'':<{_VALUES}}"
  indent = f"\n{'':<{_VALUES}}  # "
  return f"{first}  # {indent.join(lines)}".replace(_NO_BREAK, " ")


def _range(within):
  low, high = within[1:-1].split(", ")
  if high == str(LARGEST):
    return f"at{_NO_BREAK}least{_NO_BREAK}{low}"
  return f"in{_NO_BREAK}{within.replace(' ', _NO_BREAK)}"
