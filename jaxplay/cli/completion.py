"""`jaxplay --print-completion SHELL`: verbs, options and paths."""

import argparse


class PrintCompletion(argparse.Action):
  """Prints a script that the shell loads, and exits."""

  def __call__(self, parser, namespace, values, option_string=None):
    import shtab

    _complete_paths(parser, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, values))
    parser.exit()


def add(parser):
  """Adds the option to the parser of all verbs."""
  parser.add_argument(
    "--print-completion",
    action=PrintCompletion,
    choices=("bash", "zsh", "tcsh"),
    help="print a script with which the shell completes commands",
  )


# What stands in a usage line for a folder; for a file, it begins with FILE.
_FOLDERS = {"DIR", "PATH", "RUN", "STUDY", "LADDER", "PLAN", "ROOT"}
_FOLDERS |= {"BASELINE", "CANDIDATE"}


def _complete_paths(parser, file, folder):
  """Marks the arguments that are paths, of all verbs."""
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for verb in action.choices.values():
        _complete_paths(verb, file, folder)
    elif not action.choices:
      name = (action.metavar or "").partition("|")[0]
      if name in _FOLDERS:
        action.complete = folder
      elif name.startswith(("FILE", "CONFIG")):
        action.complete = file
