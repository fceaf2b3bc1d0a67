"""The verb `jaxplay export`: studies and runs for other programs."""

import sys

from jaxplay import formats
from jaxplay.api import exports
from jaxplay.cli import common

_OPTIONS = ("tensorboard", "csv", "optuna", "safetensors")


def add(verbs):
  verb = verbs.add_parser(
    "export",
    help="a study or a run for TensorBoard, spreadsheets, Optuna",
    allow_abbrev=False,
  )
  common.add_options(
    verb,
    exports.export,
    *("source", *_OPTIONS),
    positional=("source",),
  )
  verb.set_defaults(verb=_export)


def _export(arguments, rest):
  common.no_more(rest, arguments)
  exported = exports.export(**common.given(arguments, "source", *_OPTIONS))
  if exported.tensorboard is not None:
    print(f"event files: {exported.tensorboard}")
  if exported.csv is not None:
    print(f"table: {exported.csv}")
  if exported.safetensors is not None:
    print(f"weights: {exported.safetensors}")
  if exported.optuna is not None:
    trials = formats.count(exported.num_added, "trial")
    print(
      f"{trials} added to the study {exported.optuna!r} in {arguments.optuna}"
    )
  notes = list(exported.doubts)
  if exported.left_out:
    trials = formats.count(len(exported.left_out), "trial")
    listed = ", ".join(map(str, exported.left_out))
    notes.append(f"{trials} left out, which Optuna cannot represent: {listed}")
  for sentence in notes:
    print(f"note: {sentence}", file=sys.stderr)
  return 0
