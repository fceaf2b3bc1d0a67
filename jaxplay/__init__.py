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
  from jaxplay.api.devices import (
    Devices as Devices,
  )
  from jaxplay.api.devices import (
    use_devices as use_devices,
  )
  from jaxplay.api.plans import (
    plan_batch_size as plan_batch_size,
  )
  from jaxplay.api.plans import (
    plan_clip as plan_clip,
  )
  from jaxplay.api.plans import (
    plan_longest_run as plan_longest_run,
  )
  from jaxplay.api.plans import (
    plan_rounds as plan_rounds,
  )
  from jaxplay.api.plans import (
    plan_stability as plan_stability,
  )
  from jaxplay.api.plans import (
    plan_steps as plan_steps,
  )
  from jaxplay.api.plans import (
    plan_topology as plan_topology,
  )
  from jaxplay.api.plans import (
    run_playbook as run_playbook,
  )
  from jaxplay.api.reading import (
    check as check,
  )
  from jaxplay.api.reading import (
    compare as compare,
  )
  from jaxplay.api.reading import (
    read as read,
  )
  from jaxplay.api.reading import (
    read_run as read_run,
  )
  from jaxplay.api.reading import (
    write_figures as write_figures,
  )
  from jaxplay.api.reading import (
    write_report as write_report,
  )
  from jaxplay.api.runs import (
    base_config as base_config,
  )
  from jaxplay.api.runs import (
    branch as branch,
  )
  from jaxplay.api.runs import (
    describe as describe,
  )
  from jaxplay.api.runs import (
    load_config as load_config,
  )
  from jaxplay.api.runs import (
    train as train,
  )
  from jaxplay.api.scaling import (
    fit_scaling_law as fit_scaling_law,
  )
  from jaxplay.api.scaling import (
    read_ladder as read_ladder,
  )
  from jaxplay.api.scaling import (
    run_ladder as run_ladder,
  )
  from jaxplay.api.studies import (
    Runner as Runner,
  )
  from jaxplay.api.studies import (
    choose_final as choose_final,
  )
  from jaxplay.api.studies import (
    export_to_optuna as export_to_optuna,
  )
  from jaxplay.api.studies import (
    extend_study as extend_study,
  )
  from jaxplay.api.studies import (
    find_studies as find_studies,
  )
  from jaxplay.api.studies import (
    rerun_study as rerun_study,
  )
  from jaxplay.api.studies import (
    run_study as run_study,
  )
  from jaxplay.api.studies import (
    suggest as suggest,
  )
  from jaxplay.rundir import (
    RunDir as RunDir,
  )
  from jaxplay.scaling.ladder import (
    Ladder as Ladder,
  )
  from jaxplay.study.space import (
    Choice as Choice,
  )
  from jaxplay.study.space import (
    Float as Float,
  )
  from jaxplay.study.space import (
    Int as Int,
  )
  from jaxplay.study.study import (
    Study as Study,
  )
  from jaxplay.terminal import (
    show_progress as show_progress,
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
    ("base_config", "load_config", "train", "describe", "branch"),
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
      "export_to_optuna",
    ),
    "jaxplay.api.studies",
  ),
  **dict.fromkeys(
    ("read", "read_run", "check", "compare", "write_report", "write_figures"),
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
