"""Compares `jaxplay playbook` with random search, Optuna's TPE and no search.

    python tools/autopilot.py run runs/autopilot --budget=64 --seeds=0:5
    python tools/autopilot.py table runs/autopilot --out=docs/autopilot.md

On each of three small tasks and with each seed of the search, every method may
spend the same number of trials of the config's length, in the same space of
hyperparameters, and hands over a config. That is trained with five seeds that
no search has seen, and looked at on the test set. Killed, the same command goes
on.
"""

import argparse
import json
import pathlib
import pprint
import sys

import numpy as np
from scipy import stats

from jaxplay import cli, report, rundir
from jaxplay import config as config_lib
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import result as result_lib
from jaxplay.study import space as space_lib

TASKS = ("digits", "synthetic", "language")
METHODS = ("playbook", "tpe", "random", "config")
_FRESH = 1000  # first seed of the final runs, less one
_FINAL_SEEDS = 5
_BATCH = 4  # of TPE's trials, at the same time
_STARTUP = 10  # random trials of TPE: Optuna's default


def get_config(task):
  """The config of a task, with the numbers that one would begin with."""
  config = config_lib.base()
  config.max_train_steps = 400
  config.log_every = 20
  config.checkpoint_every = 400
  hparams, dataset, model = config.hparams, config.dataset, config.model
  if task == "digits":  # real, and few examples
    config.batch_size = 64
    config.eval_batch_size = 300
    config.eval_every = 20
    config.schedule = "linear"
    dataset.augment = "shift"
    dataset.augment_pixels = 1
    model.width = 64
  elif task == "synthetic":  # deep, without normalization
    config.batch_size = 32
    config.eval_batch_size = 2_000
    config.eval_every = 40
    config.optimizer = "adam"
    config.schedule = "cosine"
    hparams.learning_rate = 1e-3
    dataset.name = "synthetic"
    dataset.shape = (8, 8, 1)
    dataset.difficulty = 2.0
    dataset.num_train = dataset.num_valid = dataset.num_test = 2_000
    model.depth = 6
    model.width = 64
  else:  # a language model of one block: compute-bound
    config.batch_size = 16
    config.eval_batch_size = 128
    config.eval_every = 100
    config.objective = "valid/loss"
    config.optimizer = "adamw"
    config.schedule = "linear"
    config.clipping = True
    hparams.learning_rate = 1e-3
    hparams.beta2 = 0.95
    hparams.weight_decay = 0.1
    hparams.warmup_steps = 20
    dataset.name = "pythonlib"
    dataset.sequence_length = 32
    model.name = "lm"
    model.depth = 1
    model.width = 32
    model.heads = 2
    model.norm = "rms"
    model.tied_embedding = True
  return config


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  verbs = parser.add_subparsers(dest="verb", required=True)
  for name in ("run", "table"):
    verb = verbs.add_parser(name)
    verb.add_argument("folder", type=pathlib.Path)
    verb.add_argument("--tasks", type=_some(TASKS), default=list(TASKS))
  verbs.choices["run"].add_argument("--budget", type=int, default=64)
  verbs.choices["run"].add_argument("--seeds", type=_range, default=range(5))
  verbs.choices["run"].add_argument(
    "--methods", type=_some(METHODS), default=list(METHODS)
  )
  verbs.choices["table"].add_argument("--out", type=pathlib.Path)
  options = parser.parse_args()
  if options.verb == "table":
    return _tell(options.folder, options.tasks, options.out)
  for seed in options.seeds:
    for task in options.tasks:
      for method in options.methods:
        folder = options.folder / task / f"{seed}" / method
        if method == "config" and seed != options.seeds[0]:
          continue  # It does not depend on the search.
        if not (folder / "outcome.json").exists():
          _run(folder, task, method, options.budget, seed)
  return 0


def _some(names):
  """Type of names with commas between."""

  def parse(text):
    for name in text.split(","):
      if name not in names:
        raise argparse.ArgumentTypeError(
          f"{name!r} is none of {', '.join(names)}"
        )
    return text.split(",")

  return parse


def _range(text):
  """Type of seeds: "0:5"."""
  first, last = text.split(":")
  return range(int(first), int(last))


# The methods.


def _run(folder, task, method, budget, seed):
  """A search, and what its outcome is worth."""
  spec = f"{pathlib.Path(__file__).resolve()}:{task}"
  find = {
    "playbook": _playbook,
    "tpe": _tpe,
    "random": _random,
    "config": lambda *_: config_lib.load(spec),
  }[method]
  config = find(folder, spec, budget, seed)
  config.seed, config.report_test = _FRESH, True
  outcome = _worth(folder, config)
  rundir.write_json(folder / "outcome.json", outcome)
  print(f"== {folder}: {outcome['test']}", flush=True)


def _call(*arguments):
  code = cli.main([str(argument) for argument in arguments])
  if code:
    sys.exit(code)


def _playbook(folder, spec, budget, seed):
  path = folder / "plan"
  _call(
    *("playbook", spec, f"--budget={budget}", f"--workdir={path}"),
    *(f"--seed={seed}", "--keep_batch_size"),
  )
  return config_lib.load(str(path / "best.json"))


def _space(spec, budget):
  """What the loop begins with, and every method searches."""
  config = config_lib.load(spec)
  rate = config.hparams.learning_rate
  space = space_lib.default_space(config, budget, (rate / 30, rate * 30))
  return space_lib.Space(space)


def _study(folder, spec, fields):
  """Runs a study from a file that is written for it; its results."""
  lines = "".join(f"    {k}={pprint.pformat(v)},\n" for k, v in fields.items())
  text = (
    "from jaxplay.study import space, study\n\n\ndef get_study():\n"
    f"  return study.Study(\n    goal='A comparison',\n    config={spec!r},\n"
    "    overrides={'num_predictions': 0, 'export': False},\n"
    f"{lines}  )\n"
  )
  folder.parent.mkdir(parents=True, exist_ok=True)
  file = folder.with_suffix(".py")
  file.write_text(text)
  _call("study", "run", file, f"--workdir={folder}", "--no_report")
  return results_lib.read_study(folder)


def _with_point(spec, point):
  config = config_lib.load(spec)
  for key, value in point.items():
    config_lib.override(config, key, value)
  return config


def _random(folder, spec, budget, seed):
  space = _space(spec, budget)
  domains = {p.key: p.domain for p in space.parameters}
  results = _study(
    folder / "study",
    spec,
    {
      "space": _Source(domains),
      "num_trials": budget,
      "algorithm": "random",
      "seed": seed,
    },
  )
  return _with_point(spec, results.by_key(results.ranked[0]))


class _Source:
  """Domains, shown as the source that makes them."""

  def __init__(self, domains):
    self.domains = domains

  def __repr__(self):
    rows = (
      f"{key!r}: space.{domain!r}" for key, domain in self.domains.items()
    )
    return "{" + ", ".join(rows) + "}"


def _tpe(folder, spec, budget, seed):
  """Optuna's TPE as its documentation has it for trials in parallel."""
  import optuna

  optuna.logging.set_verbosity(optuna.logging.ERROR)
  space = _space(spec, budget)
  study = optuna.create_study(
    sampler=optuna.samplers.TPESampler(
      seed=seed, n_startup_trials=_STARTUP, constant_liar=True
    )
  )
  best = (np.inf, {})
  for batch in range(-(-budget // _BATCH)):
    size = min(_BATCH, budget - batch * _BATCH)
    trials = [study.ask() for _ in range(size)]
    points = [
      {
        p.key: trial.suggest_float(p.label, p.low, p.high, log=p.scale == "log")
        if p.scale != "log_one_minus"
        else 1 - trial.suggest_float(p.label, 1 - p.high, 1 - p.low, log=True)
        for p in space.parameters
      }
      for trial in trials
    ]
    results = _study(
      folder / f"batch_{batch:02d}",
      spec,
      {"algorithm": "explicit", "points": points},
    )
    for trial, one, point in zip(trials, results.trials, points, strict=True):
      value = results.value(one)
      if np.isfinite(value):
        study.tell(trial, value)
        best = min(best, (value, point), key=lambda row: row[0])
      else:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
  return _with_point(spec, best[1])


# What an outcome is worth.


def _worth(folder, config):
  """Of a config: the test metric and the objective with fresh seeds."""
  path = folder / "final.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  rundir.write_json(path, config_lib.as_json(config))
  study = folder / "final"
  rate = config.hparams.learning_rate
  points = [{"hparams.learning_rate": rate}]
  _study(
    study, str(path.resolve()), {"algorithm": "explicit", "points": points}
  )
  _call(
    *("study", "rerun", study, "--trial=0", f"--seeds={_FINAL_SEEDS}"),
    "--no_report",
  )
  metric = config.objective.replace("valid/", "test/")
  tests, valids = [], []
  for run in sorted((study / "reruns" / "0000").iterdir()):
    status = rundir.RunDir(run).status()
    tests.append((status.get("test") or {}).get(metric))
    valids.append((status.get("best") or {}).get("value"))
  return {"metric": metric, "test": tests, "valid": valids}


# The table.


def _tell(folder, tasks, out):
  rows = {task: _outcomes(folder / task) for task in tasks}
  lines = [
    "| task, metric | seeds | " + " | ".join(METHODS) + " |",
    "|---|---|" + "---|" * len(METHODS),
  ]
  paired = []
  for task, found in rows.items():
    metric, means = found
    cells = []
    for method in METHODS:
      values = np.array(list(means[method].values()))
      spread = f" +- {values.std(ddof=1):.2g}" if len(values) > 1 else ""
      cells.append(f"{values.mean():.4g}{spread}")
    seeds = len(means["playbook"])
    lines.append(f"| {task}, {metric} | {seeds} | " + " | ".join(cells) + " |")
    paired.append(_paired(task, means))
  text = "\n".join([*lines, "", *sum(paired, []), *_pooled(rows)])
  print(text)
  if out is not None:
    page = out.read_text()
    begin, end = "<!-- made by tools/autopilot.py -->\n", "<!-- end -->"
    head, _, rest = page.partition(begin)
    out.write_text(head + begin + text + "\n" + end + rest.partition(end)[2])
    report.answer_figures(_figures(rows), out.parent / "autopilot")
  return 0


def _outcomes(folder):
  """(metric, method -> seed -> mean of the test metric)."""
  metric, means = "", {method: {} for method in METHODS}
  for path in sorted(folder.glob("*/*/outcome.json")):
    outcome = json.loads(path.read_text())
    metric = outcome["metric"]
    values = [v if v is not None else np.nan for v in outcome["test"]]
    means[path.parent.name][int(path.parent.parent.name)] = np.mean(values)
  return metric, means


def _paired(task, means):
  """Sentences: the loop's outcome less another's, seed by seed."""
  lines = []
  for method in METHODS[1:]:
    ours, theirs = _pairs(means, method)
    if len(ours) > 1:
      lines.append(
        f"- {task}, playbook - {method}: {_comparison(ours - theirs)}"
      )
  return lines


def _pairs(means, method):
  """(the loop's outcome, another's) of each seed that both have."""
  ours, theirs = means["playbook"], means[method]
  if method == "config":  # Without a search: the same for every seed.
    theirs = dict.fromkeys(ours, next(iter(theirs.values())))
  seeds = sorted(ours.keys() & theirs.keys())
  return tuple(np.array([one[s] for s in seeds]) for one in (ours, theirs))


def _pooled(rows):
  """Sentences: over all tasks, in percent of the other's outcome."""
  lines = []
  for method in METHODS[1:]:
    ratios = [
      100 * np.log(np.divide(*_pairs(means, method)))
      for _, means in rows.values()
    ]
    summary = _comparison(np.concatenate(ratios), "%")
    lines.append(f"- all tasks, playbook / {method} as a logarithm: {summary}")
  return lines


def _comparison(less, unit=""):
  """The mean of differences, its interval by Student's t, and a verdict."""
  error = less.std(ddof=1) / np.sqrt(len(less))
  reach = stats.t.isf(0.025, len(less) - 1) * error
  low, high = less.mean() - reach, less.mean() + reach
  verdict = "better" if high < 0 else "worse" if low > 0 else "inconclusive"
  return (
    f"{less.mean():+.3g}{unit} (95%: {low:+.3g} to {high:+.3g}), lower with"
    f" {(less < 0).sum()} of {len(less)} seeds: {verdict}"
  )


def _figures(rows):
  figures = [
    result_lib.FigureData(
      f"{task}: what each search chose, on the test set",
      result_lib.Axis("seed of the search", whole=True),
      result_lib.Axis(metric),
      points=[
        dict(x=seed, y=float(value), series=method)
        for method in METHODS[:-1]
        for seed, value in means[method].items()
      ],
      levels={"config": float(next(iter(means["config"].values())))},
    )
    for task, (metric, means) in rows.items()
  ]
  return result_lib.ProcedureResult(summary=[], figures=figures)


if __name__ == "__main__":
  sys.exit(main())
