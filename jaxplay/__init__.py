"""jaxplay: the Deep Learning Tuning Playbook as working software.

    import jaxplay as jp

    config = jp.load_config("experiments/digits_mlp/config.py")
    run = jp.train(config, "runs/first")
    results = jp.run_study("experiments/digits_mlp/study_lr.py", "runs/study")
    jp.check(results)

Every function does what the command of the same name does. Importing jaxplay
imports no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # As `_PUBLIC` has it; a test compares them.
  from jaxplay.api.devices import (  # noqa: F401
    Devices,
    use_devices,
  )
  from jaxplay.api.exports import (  # noqa: F401
    export,
  )
  from jaxplay.api.landscapes import (  # noqa: F401
    landscape,
    merge,
  )
  from jaxplay.api.plans import (  # noqa: F401
    plan_batch_size,
    plan_clip,
    plan_longest_run,
    plan_rounds,
    plan_stability,
    plan_steps,
    plan_topology,
    run_playbook,
  )
  from jaxplay.api.reading import (  # noqa: F401
    check,
    compare,
    figures,
    importance,
    read,
    read_run,
    write_figures,
    write_report,
  )
  from jaxplay.api.runs import (  # noqa: F401
    base_config,
    branch,
    describe,
    load_config,
    train,
  )
  from jaxplay.api.scaling import (  # noqa: F401
    fit_scaling_law,
    read_ladder,
    run_ladder,
  )
  from jaxplay.api.studies import (  # noqa: F401
    Runner,
    choose_final,
    extend_study,
    find_studies,
    rerun_study,
    run_study,
    suggest,
  )
  from jaxplay.rundir import (  # noqa: F401
    RunDir,
  )
  from jaxplay.scaling.ladder import (  # noqa: F401
    Ladder,
  )
  from jaxplay.study.space import (  # noqa: F401
    Choice,
    Float,
    Int,
  )
  from jaxplay.study.study import (  # noqa: F401
    Study,
  )
  from jaxplay.terminal import (  # noqa: F401
    show_progress,
  )

__version__ = "0.1.0"


class UserError(Exception):
  """A request that cannot be carried out as written.

  The message is one sentence for the person who wrote it: what is wrong, where,
  and how to fix it. The command line prints it and exits with code 2.
  """


class StorageError(Exception):
  """A disk that is full, lost or broken; see `jaxplay.storage`.

  The message is one sentence: what happened, where, how much room there is, and
  what to do. The command line prints it and exits with code 1; the same command
  resumes from what was saved.
  """


class RunError(Exception):
  """A run or a trial failed: out of device memory, a lost host, a crash.

  The message is one sentence. The command line prints it and exits with code 1.
  """


class Stopped(Exception):
  """A signal asked to stop; the same call resumes.

  The command line exits with code 75.
  """


# Name -> the module that has it, which is imported when the name is first used.
_PUBLIC = {
  **dict.fromkeys(("Devices", "use_devices"), "jaxplay.api.devices"),
  **dict.fromkeys(
    (*("base_config", "load_config", "train", "describe", "branch"),),
    "jaxplay.api.runs",
  ),
  **dict.fromkeys(
    (
      "Runner",
      "run_study",
      "extend_study",
      "rerun_study",
      "suggest",
      "choose_final",
      "find_studies",
    ),
    "jaxplay.api.studies",
  ),
  "export": "jaxplay.api.exports",
  **dict.fromkeys(("landscape", "merge"), "jaxplay.api.landscapes"),
  **dict.fromkeys(
    (
      *("read", "read_run", "check", "compare", "figures"),
      "importance",
      *("write_report", "write_figures"),
    ),
    "jaxplay.api.reading",
  ),
  **dict.fromkeys(
    (
      "plan_steps",
      "plan_batch_size",
      "plan_stability",
      "plan_clip",
      "plan_rounds",
      "plan_longest_run",
      "plan_topology",
      "run_playbook",
    ),
    "jaxplay.api.plans",
  ),
  **dict.fromkeys(
    ("run_ladder", "read_ladder", "fit_scaling_law"), "jaxplay.api.scaling"
  ),
  "Study": "jaxplay.study.study",
  **dict.fromkeys(("Float", "Int", "Choice"), "jaxplay.study.space"),
  "Ladder": "jaxplay.scaling.ladder",
  "RunDir": "jaxplay.rundir",
  "show_progress": "jaxplay.terminal",
}

__all__ = ["RunError", "Stopped", "StorageError", "UserError", *_PUBLIC]


def __getattr__(name: str) -> Any:
  if name not in _PUBLIC:
    raise AttributeError(f"module 'jaxplay' has no attribute {name!r}")
  value = getattr(importlib.import_module(_PUBLIC[name]), name)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  return sorted([*globals(), *_PUBLIC])
