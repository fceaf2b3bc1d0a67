"""A study's file and its directory: what is read, refused, kept, extended."""

import csv
import io
import json
import math
import pathlib
import subprocess
import sys

import pytest

import jaxplay
from jaxplay import rundir
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from tests.study import studies
from tests.training import runs


def _refused(path):
  """The sentence with which a study file is refused."""
  with pytest.raises(jaxplay.UserError) as caught:
    study_lib.load(str(path))
  sentence = str(caught.value)
  assert "\n" not in sentence.strip()
  return sentence


def test_a_study_file_says_everything(tmp_path):
  """What a study is: all of it is in study.json, also after JSON."""
  definition = studies.load(
    tmp_path,
    goal="Is “5 < 6”?",
    overrides={"model.width": 16, "averages": ["ema"]},
    seed=3,
    objective="final:valid/loss",
    notes="a, b\nc",
  )
  assert definition == json.loads(json.dumps(definition))
  assert definition["goal"] == "Is “5 < 6”?" and definition["seed"] == 3
  assert definition["config"]["model"]["width"] == 16
  assert definition["config"]["averages"] == ["ema"]
  assert definition["notes"] == "a, b\nc" and definition["num_trials"] == 4
  # The best checkpoint is the best one by the study's objective.
  assert definition["objective"] == "final:valid/loss"
  assert definition["config"]["objective"] == "valid/loss"


def test_a_training_objective_leaves_the_checkpoints(tmp_path):
  """C7: any logged metric; checkpoints are chosen by a validation metric."""
  definition = studies.load(tmp_path, objective="train/loss")
  assert definition["objective"] == "train/loss"
  assert definition["config"]["objective"] == "valid/error_rate"


def test_a_study_of_text_is_judged_by_its_loss(tmp_path):
  """C7: study.json names the metric that the task has, where none is given."""
  definition = studies.load(
    tmp_path,
    overrides={
      "model.name": "lm",
      "model.norm": "rms",
      "dataset.name": "pythonlib",
    },
  )
  assert definition["objective"] == "valid/loss"
  assert definition["config"]["objective"] == "valid/loss"


def test_files_are_found_beside_the_study_and_here(tmp_path, monkeypatch):
  """A study file names its config as seen from itself, else from here."""
  path = studies.write(tmp_path / "a", config="config.py:24")
  monkeypatch.chdir(tmp_path)
  definition, _ = study_lib.load("a/study.py")
  assert definition["config"]["model"]["width"] == 24
  # Which does not depend on where one stood (B14).
  assert definition["config_file"] == f"{tmp_path / 'a' / 'config.py'}:24"
  (tmp_path / "a" / "config.py").rename(tmp_path / "other.py")
  studies.write(tmp_path / "c", config="other.py")
  definition, _ = study_lib.load("c/study.py")
  assert definition["config_file"] == str(tmp_path / "other.py")
  assert "there is no config file 'config.py'" in _refused(path)


def test_a_study_holds_its_base_config(tmp_path):
  """R5: study.json can be given as a config, whose values it keeps."""
  definition = studies.load(tmp_path, overrides={"model.depth": 3})
  path = tmp_path / "study.json"
  path.write_text(json.dumps(definition))
  config = study_lib.config_lib.load(str(path), {"seed": "5"})
  assert config.model.depth == 3 and config.seed == 5
  config.seed = 0
  assert (
    json.loads(json.dumps(study_lib.config_lib.as_json(config)))
    == (definition["config"])
  )


def test_a_folder_may_have_a_colon(tmp_path):
  """A trial's config is found in a study that was called by the time."""
  definition = studies.load(tmp_path)
  path = tmp_path / "12:30" / "config.json"
  path.parent.mkdir()
  path.write_text(json.dumps(definition["config"]))
  config = study_lib.config_lib.load(str(path))
  assert config.model.width == 8


def test_algoperf_search_spaces(tmp_path):
  """Spaces: AlgoPerf's JSON, ranges and lists of points, beside the study."""
  (tmp_path / "space.json").write_text(
    json.dumps(
      {
        "learning_rate": {"min": 1e-3, "max": 1.0, "scaling": "log"},
        "one_minus_beta1": {"min": 1e-3, "max": 0.5, "scaling": "log"},
      }
    )
  )
  fields = dict(space="space.json", overrides={"optimizer": "adam"})
  definition = studies.load(tmp_path, algorithm="algoperf", **fields)
  assert [row["key"] for row in definition["space"]] == [
    "hparams.learning_rate",
    "hparams.beta1",
  ]
  points = [{"learning_rate": 0.1, "beta1": 0.9}, {"learning_rate": 0.2}]
  (tmp_path / "space.json").write_text(json.dumps(points))
  assert "explicit point 1 has no hparams.beta1" in _refused(
    studies.write(tmp_path, num_trials=2, **fields)
  )
  points[1]["beta1"] = 0.95
  (tmp_path / "space.json").write_text(json.dumps(points))
  definition = studies.load(tmp_path, num_trials=0, **fields)
  assert definition["num_trials"] == 2
  assert definition["algorithm"] == "explicit"
  assert definition["points"][1] == {
    "hparams.learning_rate": 0.2,
    "hparams.beta1": 0.95,
  }


def test_explicit_points(tmp_path):
  """Spaces: points that were thought of elsewhere are the trials."""
  points = [{"hparams.learning_rate": 10.0**-i} for i in range(3)]
  fields = dict(space=None, algorithm="explicit", points=points, num_trials=0)
  study = study_lib.StudyDir(tmp_path / "study")
  study.create(studies.load(tmp_path, **fields))
  assert study.points() == points
  with pytest.raises(jaxplay.UserError, match="there are 3 explicit points"):
    study.extend(4)


_RATE = "hparams.learning_rate"


@pytest.mark.parametrize(
  "fields, sentence",
  [
    (dict(goal=" "), "has no goal"),
    (dict(goal=None), "goal is None; expected type str"),
    (dict(config=None), "config is None; expected type str"),
    (dict(config="nowhere.py"), "there is no config file 'nowhere.py'"),
    (dict(num_trials=0), "num_trials is 0; expected at least 1"),
    (dict(num_trials=-3), "num_trials is -3"),
    (dict(num_trials=4.0), "num_trials is 4.0; expected type int"),
    (dict(num_trials=True), "num_trials is True"),
    (dict(seed=None), "seed is None"),
    (dict(seed=-1), "seed is -1"),
    (dict(algorithm="haltom"), "did you mean 'halton'?"),
    (dict(algorithm="grid", num_trials=10**4, space="INT"), "nodes"),
    (dict(overrides=[("seed", 1)]), "is [('seed', 1)]; expected type"),
    (dict(overrides={"hparams.learning_rat": 1}), "did you mean config.hpar"),
    (dict(overrides={"model.width": 0.5}), "it must be int"),
    (dict(overrides={"hparams.dropout_rate": 0.1}), "config.model.dropout"),
    (dict(overrides={"hparams.clip_norm": 1.0}), "set config.clipping to True"),
    (dict(overrides={"batch_size": 512}), "less than config.batch_size"),
    (dict(objective="valid/eror"), "it can be 'valid/loss', 'valid/error"),
    (dict(objective="test/loss"), "it can be 'valid/loss', 'valid/error"),
    (dict(objective="last:valid/loss"), "expected METRIC, best:METRIC or"),
    (dict(notes=3), "notes is 3; expected type str"),
    (dict(space=None), "the space is empty"),
    (dict(space=5), "the space is a int"),
    (dict(space="nowhere.json"), "cannot read the search space"),
    (dict(space={_RATE: 0.1}), "expected a Float, Int or Choice"),
    (
      dict(space={"hparams.learning_rte": space_lib.Float(0.1, 1)}),
      "did you mean config.hparams.learning_rate?",
    ),
    (dict(space={_RATE: space_lib.Float(1, 0.1)}), "low must be below high"),
    (dict(space={_RATE: space_lib.Float(0, 1, "log")}), "no logarithm"),
    (dict(algorithm="explicit"), "needs points, a list of"),
    (dict(algorithm="explicit", points=[3]), "needs points, a list of"),
    (dict(algorithm="explicit", points=[{_RATE: -1.0}]), "must lie in (0"),
    (dict(points=[{_RATE: 0.1}]), "goes with no list of explicit points"),
    (
      dict(algorithm="explicit", points=[{_RATE: 0.1}], num_trials=2),
      "there are 1 explicit points",
    ),
  ],
)
def test_a_mistake_in_a_study_file_costs_one_sentence(
  tmp_path, fields, sentence
):
  """Errors at the door: the value, and the way out."""
  if fields.get("space") == "INT":
    fields = fields | {"space": {"model.depth": space_lib.Int(1, 3)}}
  assert sentence in _refused(studies.write(tmp_path, **fields))


def test_steps_are_the_same_for_all_trials(tmp_path):
  """C8: a space with max_train_steps is refused, with the reason."""
  space = {"max_train_steps": space_lib.Int(10, 100)}
  sentence = _refused(studies.write(tmp_path, space=space))
  assert "never tune the number of steps" in sentence
  assert "Playbook" in sentence


def test_batch_size_is_no_nuisance(tmp_path):
  """B8: refused with the reason; as scientific, with what to tune again."""
  sizes = space_lib.Int(16, 64)
  sentence = _refused(studies.write(tmp_path, space={"batch_size": sizes}))
  assert "should not be tuned for validation performance" in sentence
  sizes = space_lib.Choice((16, 64), role="scientific")
  path = studies.write(tmp_path, space={"batch_size": sizes})
  _, notes = study_lib.load(path)
  assert any("nothing tunes hparams.learning_rate" in note for note in notes)


@pytest.mark.parametrize(
  "text, sentence",
  [
    (None, "there is no study file"),
    ("x = (", "does not run: SyntaxError"),
    ("import nowhere", "line 1: ModuleNotFoundError: No module named"),
    ("def get_studi(): pass", "defines no get_study()"),
    ("get_study = 3", "defines no get_study()"),
    ("def get_study(): pass", "returns NoneType"),
    ("import sys\ndef get_study(): sys.exit(0)", "line 2: it ends the program"),
    ("def get_study(): return {}", "returns dict, not a study.Study"),
    ("def get_study(): return 1 / 0", "line 1: ZeroDivisionError"),
    (
      "from jaxplay.study import study\ndef get_study():\n"
      "  return study.Study(goal='', config='', trials=3)",
      "line 3: TypeError: Study.__init__() got an unexpected keyword",
    ),
    (
      "from jaxplay.study import study\ndef get_study():\n"
      "  return study.Study(goal='x')",
      "missing 1 required keyword-only argument: 'config'",
    ),
  ],
)
def test_a_file_that_is_no_study(tmp_path, text, sentence):
  """Errors at the door: where in the user's own code it went wrong."""
  path = tmp_path / "study.py"
  if text is not None:
    path.write_text(text)
  assert sentence in _refused(path)


def test_trials_are_a_function_of_space_seed_and_index(tmp_path):
  """C5: the same points in another process; other points by another seed."""
  study = study_lib.StudyDir(tmp_path / "a")
  study.create(studies.load(tmp_path, num_trials=16))
  code = (
    "import json, sys; from jaxplay.study import study;"
    "print(json.dumps(study.StudyDir(sys.argv[1]).points()))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code, str(study.path)],
    capture_output=True,
    text=True,
    cwd=runs.ROOT,
    check=True,
  )
  assert json.loads(done.stdout) == study.points() == study.points()
  other = study_lib.StudyDir(tmp_path / "b")
  other.create(studies.load(tmp_path, num_trials=16, seed=1))
  assert not any(p in study.points() for p in other.points())


@pytest.mark.parametrize("algorithm", ["halton", "sobol", "random", "grid"])
def test_an_extended_study_keeps_its_trials(tmp_path, algorithm):
  """C5: more trials continue the sequence; fewer are refused."""
  space = {
    "optimizer": space_lib.Choice(("adam", "nesterov"), role="scientific"),
    _RATE: [
      space_lib.Float(1e-5, 1e-1, "log", when={"optimizer": "adam"}),
      space_lib.Float(1e-3, 1e1, "log", when={"optimizer": "nesterov"}),
    ],
  }
  study = study_lib.StudyDir(tmp_path / "study")
  study.create(studies.load(tmp_path, space=space, algorithm=algorithm))
  before = study.points()
  study.extend(11)
  after = study.points()
  assert len(before) == 4 and len(after) == 11 and after[:4] == before
  content = studies.files(study.path)
  with pytest.raises(jaxplay.UserError, match="11 trials already; .* 7 is"):
    study.extend(7)
  assert studies.files(study.path) == content


@pytest.mark.parametrize("algorithm", ["halton", "sobol", "random", "grid"])
def test_suggestions_leave_the_sequence_as_it_is(tmp_path, algorithm):
  """C5, C9: what is suggested keeps its place; around it the sequence goes on
  as if nothing had been, by extending and by the same file."""
  plain = study_lib.StudyDir(tmp_path / "plain")
  plain.create(studies.load(tmp_path, num_trials=12, algorithm=algorithm))
  definition = studies.load(tmp_path, algorithm=algorithm)
  study = study_lib.StudyDir(tmp_path / "study")
  study.create(definition)
  first = [{_RATE: 0.5}, {_RATE: 0.25}]
  assert study.append({"after": 4, "points": first})
  assert not study.append({"after": 4, "points": first})  # By another process.
  assert study.append({"after": 6, "points": [{_RATE: 0.125}]})
  study.extend(9)
  assert study.append({"after": 9, "points": [{_RATE: 0.0625}]})
  study.create(definition | {"num_trials": 14})
  content = study.study()
  assert content["num_trials"] == 14
  study.create(definition | {"num_trials": 14})  # By the same file again.
  assert study.study() == content
  points = study.points()
  adaptive = study_lib.adaptive(content)
  assert adaptive == [4, 5, 6, 9]
  assert [points[i][_RATE] for i in adaptive] == [0.5, 0.25, 0.125, 0.0625]
  rest = [p for i, p in enumerate(points) if i not in adaptive]
  assert rest == plain.points()[:10]


def test_extending_what_is_no_study_writes_nothing(tmp_path):
  """A mistyped folder is told, and not made."""
  with pytest.raises(jaxplay.UserError, match="there is no folder"):
    study_lib.StudyDir(tmp_path / "nowhere").extend(5)
  with pytest.raises(jaxplay.UserError, match="holds no study"):
    study_lib.StudyDir(tmp_path).extend(5)
  assert not list(tmp_path.iterdir())


def test_the_same_file_goes_on_with_the_study(tmp_path):
  """Resuming: goal, notes and length are taken over, never a shorter one."""
  study = study_lib.StudyDir(tmp_path / "study")
  study.create(studies.load(tmp_path))
  first, made = study.study(), study.provenance()
  study.extend(9)
  study.create(studies.load(tmp_path, goal="Why?", notes="x", num_trials=6))
  now = study.study()
  assert (now["goal"], now["notes"], now["num_trials"]) == ("Why?", "x", 9)
  study.create(studies.load(tmp_path, num_trials=12))
  assert study.study() == first | {"num_trials": 12, "file_trials": 12}
  later = study.provenance()
  assert later | {"resumes": []} == made
  # Each start with another file is listed, with its text (B13).
  texts = [
    file["text"] for entry in later["resumes"] for file in entry["files"]
  ]
  assert any("Why?" in text for text in texts)
  # Where it is computed is not what is computed.
  definition = studies.load(tmp_path, num_trials=12)
  definition["config"]["mesh"]["data"] = 4
  study.create(definition)
  assert study.study()["config"] == definition["config"]


@pytest.mark.parametrize(
  "fields, sentence",
  [
    (dict(seed=1), "seed was 0 and is now 1"),
    (dict(algorithm="sobol"), "algorithm was 'halton' and is now 'sobol'"),
    (dict(overrides={"model.width": 9}), "config.model.width was 8 and is no"),
    (dict(overrides={"max_train_steps": 32}), "config.max_train_steps was 24"),
    (dict(overrides={"export": True}), "overrides.export was absent and"),
    (
      dict(space={_RATE: space_lib.Float(0.1, 1, "log")}),
      f"space.{_RATE}.low was 0.001 and is now 0.1",
    ),
    (dict(num_trials=3), "num_trials was 4 and is now 3"),
    (dict(objective="train/loss"), "objective was 'valid/error_rate' and is"),
  ],
)
def test_another_study_in_the_folder_is_refused(tmp_path, fields, sentence):
  """One study per directory: told what differs, and nothing is lost."""
  study = study_lib.StudyDir(tmp_path / "study")
  study.create(studies.load(tmp_path))
  content = studies.files(study.path)
  with pytest.raises(jaxplay.UserError) as caught:
    study.create(studies.load(tmp_path, **fields))
  for part in (sentence, "another workdir", "study extend"):
    assert part in str(caught.value)
  assert studies.files(study.path) == content


def test_a_run_is_no_place_for_a_study(tmp_path):
  """One workdir holds one thing; a run's provenance stays its own."""
  run = rundir.RunDir(tmp_path / "run")
  run.create()
  run.write_config({"seed": 0})
  content = studies.files(run.path)
  with pytest.raises(jaxplay.UserError, match="holds a run; use another"):
    study_lib.StudyDir(run.path).create(studies.load(tmp_path))
  (tmp_path / "file").touch()
  with pytest.raises(jaxplay.UserError, match="cannot write in"):
    study_lib.StudyDir(tmp_path / "file").create(studies.load(tmp_path))
  assert studies.files(run.path) == content


def test_many_make_the_same_study_at_once(tmp_path):
  """A cluster's array begins at once: all agree, whoever is first."""
  path = studies.write(tmp_path, num_trials=7)
  code = (
    "import sys; from jaxplay.study import study\n"
    "definition, _ = study.load(sys.argv[1])\n"
    "print('ready', flush=True); sys.stdin.readline()\n"
    "for _ in range(20): study.StudyDir(sys.argv[2]).create(definition)"
  )
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", code, path, str(tmp_path / "study")],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      cwd=runs.ROOT,
    )
    for _ in range(3)
  ]
  for process in processes:
    assert process.stdout.readline() == "ready\n"
  for process in processes:
    process.stdin.write("\n")
    process.stdin.flush()
  for process in processes:
    _, error = process.communicate(timeout=runs.HANG)
    assert process.returncode == 0, error
  study = study_lib.StudyDir(tmp_path / "study")
  assert study.study()["num_trials"] == len(study.points()) == 7
  assert study.provenance()["resumes"] == []


def test_trial_configs(tmp_path):
  """A trial is the base config with its point; what is refused is told."""
  definition = studies.load(tmp_path, overrides={"averages": ("ema",)})
  config = study_lib.trial_config(
    definition["config"], {_RATE: 0.5, "averages": ["ema", "window"]}, seed=7
  )
  assert config.hparams.learning_rate == 0.5 and config.seed == 7
  assert config.averages == ("ema", "window")
  with pytest.raises(jaxplay.UserError, match="must lie in"):
    study_lib.trial_config(definition["config"], {_RATE: -0.5})


def test_reruns_are_found_whatever_lies_beside_them(tmp_path):
  """E1: reruns by trial and seed, in order; other folders are not reruns."""
  study = study_lib.StudyDir(tmp_path)
  for index, seed in ((10, 2), (3, 11), (3, 2)):
    study.rerun(index, seed).create()
  for other in ("0003/2.bak", "0003/.tmp", "old/3"):
    (tmp_path / "reruns" / other).mkdir(parents=True)
  found = [(index, run.path.name) for index, run in study.reruns()]
  assert found == [(3, "2"), (3, "11"), (10, "2")]


def test_studies_are_found_below_a_folder(tmp_path):
  """G8: every study, in order, and not what lies in one."""
  definition = studies.load(tmp_path / "files")
  for name in ("b", "a/deep", "a"):
    study_lib.StudyDir(tmp_path / "root" / name).create(definition)
  found = [found.path for found in study_lib.find(tmp_path / "root")]
  assert found == [tmp_path / "root" / "a", tmp_path / "root" / "b"]
  assert study_lib.find(tmp_path / "files") == []
  for wrong in (tmp_path / "nowhere", tmp_path / "files" / "study.py"):
    with pytest.raises(jaxplay.UserError, match="there is no folder"):
      study_lib.find(wrong)


def test_tables_survive_csv():
  """Tables: any text comes back; a row may lack a column."""
  rows = [
    {"a": 'say "x", y', "b": "two\nlines"},
    {"a": "<script>", "c": 0.1 + 0.2},
    {"b": None, "a": "µ"},
  ]
  read = list(csv.DictReader(io.StringIO(study_lib.as_csv(rows))))
  assert list(read[0]) == ["a", "b", "c"]
  assert read[0] == {"a": 'say "x", y', "b": "two\nlines", "c": ""}
  assert float(read[1]["c"]) == 0.1 + 0.2
  assert read[2] == {"a": "µ", "b": "", "c": ""}
  assert list(csv.reader(io.StringIO(study_lib.as_csv([])))) in ([], [[]])


@pytest.mark.parametrize(
  ("value", "cell"),
  [
    *((text, f"'{text}") for text in ("=cmd|' /C calc'!A0", "=1+1", "@SUM(1)")),
    *((text, f"'{text}") for text in ("+cmd", "-cmd", "-", "\t=1", "\r=1")),
    *((text, text) for text in ("fine", "'=1", "a=1", "", "-1e-3", "+4")),
    *((number, str(number)) for number in (-1, -0.5, -1e-30, True)),
  ],
)
def test_no_cell_is_a_formula(value, cell):
  """Tables: a spreadsheet shows what a study says; numbers stay numbers."""
  text = study_lib.as_csv([{"a": value, f"={value}": 1}])
  head, row = csv.reader(io.StringIO(text, newline=""))
  assert head == ["a", f"'={value}"] and row == [cell, "1"]


def test_study_needs_no_jax(tmp_path):
  """Idea 2: a study is defined, made and extended without JAX."""
  path = studies.write(tmp_path)
  code = (
    "import sys; from jaxplay.study import runners, study\n"
    "s = study.StudyDir(sys.argv[2]); s.create(study.load(sys.argv[1])[0])\n"
    "s.extend(9); s.points(); assert 'jax' not in sys.modules"
  )
  arguments = [sys.executable, "-c", code, path, str(tmp_path / "study")]
  subprocess.run(arguments, cwd=runs.ROOT, check=True, timeout=runs.HANG)


# What cannot be run, or comes back from the runs as something else.


@pytest.mark.parametrize(
  "fields, parts",
  [
    (dict(overrides={_RATE: 0.1}), (_RATE, "overrides", "space")),
    (dict(overrides={3: 0.1}), ("overrides", "3", "config key")),
    (dict(space={3: space_lib.Float(0.1, 1)}), ("3", "config key")),
    (
      dict(space={"cooldown_shape": space_lib.Choice(("linear", None))}),
      ("cooldown_shape", "None", "must be str"),
    ),
    (
      dict(space={"model.strides": space_lib.Choice((1, 2))}),
      ("model.strides", "must be tuple"),
    ),
    (
      dict(space={"model.depth": space_lib.Choice((2, 2**70))}),
      ("model.depth", str(2**70)),
    ),
    (
      dict(space={"model.depth": space_lib.Int(1, 2**70)}),
      ("model.depth", str(2**70)),
    ),
    (dict(overrides={"dataset.device_bytes": 2**70}), ("device_bytes",)),
    (dict(seed=2**70), ("seed", str(2**70))),
    (dict(num_trials=10**12), ("trials", "at most 10000")),
    *(
      (dict(space={_RATE: space_lib.Float(low, high, scale)}), (_RATE, part))
      for low, high, scale, part in [
        (0.1, math.nextafter(0.1, 1), "linear", "widen"),
        (0.1, 0.1 + 1e-9, "log", "widen"),
        (0.1, 0.1, "linear", "below"),
        (1e-320, 1e-310, "log", "1.2e-38"),
        (1e-300, 1e300, "log", "1.2e-38"),
        (0.1, 1e39, "log", "infinity"),
        (0.1, math.inf, "log", "finite"),
        (math.nan, 1.0, "log", "finite"),
      ]
    ),
    (
      dict(space={_RATE: space_lib.Choice((0.1, math.nan))}),
      (_RATE, "nan"),
    ),
    (
      dict(space={_RATE: space_lib.Choice((0.1, 0.1 + 1e-12))}),
      (_RATE, "more than once"),
    ),
    (
      dict(
        **{"space": None, "num_trials": 0, "algorithm": "explicit"},
        points=[{_RATE: 0.1}, {}],
      ),
      ("point 1", _RATE),
    ),
    (
      dict(
        space={_RATE: space_lib.Float(0.01, 1)},
        **{"num_trials": 1, "algorithm": "explicit"},
        points=[{_RATE: 0.1, "batch_size": 8}],
      ),
      ("point 0", "batch_size"),
    ),
    (
      dict(space=None, num_trials=0, algorithm="explicit", points=[{3: 0.1}]),
      ("points", "config key"),
    ),
    (
      dict(
        space=None, num_trials=0, algorithm="explicit", points=[{_RATE: None}]
      ),
      (_RATE, "None"),
    ),
  ],
)
def test_what_could_not_be_reported_is_refused_at_load(tmp_path, fields, parts):
  """A study that loads runs, and its runs are those that it describes."""
  file = pathlib.Path(studies.write(tmp_path, **fields))
  # What a file says in Python.
  text = "from math import inf, nan\n" + file.read_text()
  file.write_text(text)
  with pytest.raises(jaxplay.UserError) as caught:
    study_lib.load(str(file))
  for part in parts:
    assert part in str(caught.value), caught.value


def test_a_study_file_may_be_moved_and_renamed(tmp_path):
  """What is compared is what the config file says, not where it is."""
  study = study_lib.StudyDir(tmp_path / "study")
  study.create(studies.load(tmp_path / "a"))
  moved = tmp_path / "b" / "again.py"
  moved.parent.mkdir()
  (tmp_path / "a" / "config.py").rename(tmp_path / "b" / "other.py")
  text = (tmp_path / "a" / "study.py").read_text()
  moved.write_text(text.replace("config.py", "other.py"))
  study.create(study_lib.load(str(moved))[0])
