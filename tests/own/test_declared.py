"""Names of parts, the keys that they declare, and their code on the disk."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir, usercode, userfiles
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from tests.own import parts_here


@pytest.fixture
def folder(tmp_path):
  return parts_here.write(tmp_path / "user")


def _load(folder, *lines, **overrides):
  file = parts_here.config_file(folder, [*parts_here.SMALL, *lines])
  config = config_lib.load(
    file, {k.replace("__", "."): v for k, v in overrides.items()}
  )
  config_lib.validate(config)
  return config


def test_annotations_become_keys(folder):
  """P1: a part's fields and arguments are keys, with ranges and defaults."""
  config = _load(folder)
  flat = config_lib.flatten(config)
  assert flat["model.patch"] == 4
  assert flat["model.width"] == 8  # built in with another default
  assert flat["hparams.beta"] == 0.8
  assert flat["hparams.nesterov"] is True
  assert flat["hparams.every"] == 10
  keys = config_lib.keys_of(flat)
  assert keys["model.patch"].within == "[1, 8]"
  assert keys["model.activation"].choices == ("gelu", "relu")
  traced = {name: keys[name].traced for name in flat if "hparams" in name}
  assert traced["hparams.beta"] and traced["hparams.every"]
  assert not traced["hparams.nesterov"]


def test_keys_can_be_set_below_the_name(folder):
  """In get_config() and on the command line, typed."""
  config = _load(
    folder,
    "config.model.patch = 2",
    model__activation="relu",
    model__width="16",
  )
  assert (config.model.patch, config.model.width) == (2, 16)
  assert config.model.activation == "relu"


@pytest.mark.parametrize(
  "key, value",
  [
    ("model.patch", "9"),
    ("model.patch", "2.5"),
    ("model.activation", "silu"),
    ("hparams.beta", "1.0"),
    ("model.nothing", "1"),
    ("model.depth", "3"),  # the mixer has no depth
    ("hparams.momentum", "0.5"),
  ],
)
def test_wrong_values_are_refused(folder, key, value):
  with pytest.raises(jaxplay.UserError) as refused:
    _load(folder, **{key.replace(".", "__"): value})
  assert key in str(refused.value) and "\n" not in str(refused.value)


def test_a_part_that_is_left_gives_its_defaults_back(folder):
  """Only values that were set survive a change of the part."""
  config = config_lib.load(
    parts_here.config_file(
      folder,
      ['config.model.name = "mixer.py:Mixer"', 'config.model.name = "mlp"'],
    )
  )
  assert config.model.width == config_lib.base().model.width
  config_lib.validate(config)
  assert "patch" in config.model  # known, without effect
  assert not config_lib.has_effect("model.patch", config_lib.flatten(config))


def test_json_holds_all_that_readers_need(folder):
  """P2: config.json is read, checked and compared without the user's code."""
  config = _load(folder, "config.model.patch = 2")
  nested = json.loads(json.dumps(config_lib.stored(config)))
  script = (
    "import json, sys; from jaxplay import config as c;"
    "config = c.from_json(json.load(sys.stdin)); c.validate(config);"
    "print(config.model.patch, config.hparams.beta, 'mixer' in sys.modules,"
    " 'jax' in sys.modules)"
  )
  out = subprocess.run(
    [sys.executable, "-c", script],
    input=json.dumps(nested),
    capture_output=True,
    text=True,
    check=True,
    cwd=folder.parent,
  )
  assert out.stdout.split() == ["2", "0.8", "False", "False"]
  again = config_lib.from_json(nested)
  assert config_lib.flatten(again) == config_lib.flatten(config)


def test_without_parts_nothing_is_stored(folder):
  nested = config_lib.stored(config_lib.base())
  assert not {"code", "declared"} & nested.keys()


HOSTILE = "raise SystemExit('it ran')"


@pytest.mark.parametrize(
  "rows",
  [
    [],
    [["part", "model.name", "evil.py:X", []]],
    [["key", "model.name", "evil.py:X", "model.name", 1, "", [], "", False]],
    [["key", "model.name", "evil.py:X", "hparams.a", 1, "", [], "", False]],
    [["key", "model.name", "evil.py:X", "model.a", 1, "(", [], "", False]],
    [["key", "model.name", "evil.py:X", "model.a", {}, "", [], "", False]],
    [["key", "model.name", "evil.py:X", "model.a", 9, "[0, 1]", [], "", False]],
    [["key", "optimizer", "evil.py:X", "hparams.momentum", "a", "", [], "", 0]],
    [["metric", "evil.py:X", "loss"]],
    [["key", "optimizer", "evil.py:X", "hparams.a", "a", "", [], "", True]],
    [None],
    ["part"],
    "part",
    7,
  ],
)
def test_reading_runs_no_code(tmp_path, monkeypatch, rows):
  """P2: whatever a file declares, reading it imports nothing of the user."""
  (tmp_path / "evil.py").write_text(HOSTILE)
  monkeypatch.chdir(tmp_path)
  nested = {"model": {"name": "evil.py:X"}, "declared": rows}
  try:
    config = config_lib.from_json(nested, str(tmp_path / "config.json"))
    config_lib.validate(config)
  except jaxplay.UserError as refused:
    assert "\n" not in str(refused)


@pytest.mark.parametrize("code", ["../../..", "a\0b", "f" * 63])
def test_a_digest_is_no_path(tmp_path, code):
  """R1: what is no digest leads nowhere."""
  for use in (usercode.folder_of, lambda c: usercode.changed(c, tmp_path)):
    usercode.look_in(tmp_path)
    with pytest.raises(jaxplay.UserError, match="config.code"):
      use(code)


def test_a_point_of_a_study_runs_no_code(tmp_path, monkeypatch):
  """P2: a value of study.json that nobody declared is refused, not loaded."""
  (tmp_path / "evil.py").write_text(HOSTILE)
  monkeypatch.chdir(tmp_path)
  base = config_lib.as_json(config_lib.base())
  with pytest.raises(jaxplay.UserError, match="evil.py:X"):
    study_lib.trial_config(base, {"model.name": "evil.py:X"})


BAD = """
import dataclasses
import flax.linen as nn

def no_default(learning_rate, beta): ...
def bad_range(learning_rate, beta: "Annotated[float, '[0, 1)']" = 2.0): ...
from typing import Annotated
def outside(learning_rate, beta: Annotated[float, "[0, 1)"] = 2.0): ...
def backwards(learning_rate, beta: Annotated[float, "[1, 0]"] = 0.5): ...
def other_type(learning_rate, momentum: str = "a"): ...
def taken(learning_rate, max_train_steps: int = 3): ...
def raises(): raise ValueError("boom")
value = 3
"""


@pytest.mark.parametrize(
  "name, says",
  [
    ("bad.py:no_default", "beta"),
    ("bad.py:no_default", "learning_rate"),
    ("bad.py:bad_range", "beta"),
    ("bad.py:outside", "beta"),
    ("bad.py:backwards", "beta"),
    ("bad.py:other_type", "momentum"),
    ("bad.py:taken", "max_train_steps"),
    ("bad.py:absent", "absent"),
    ("absent.py:f", "absent.py"),
    ("absent_module:f", "absent_module"),
    ("syntax.py:f", "line 1"),
    ("exits.py:f", "exits.py"),
    ("bad.py:", "bad.py:"),
    (":f", ":f"),
    ("bad.py:a-b", "bad.py:a-b"),
  ],
)
def test_what_no_part_can_be(folder, name, says):
  """P3: one sentence, with the name, and the line if code fails."""
  parts_here.write(folder, bad=BAD, syntax="def (", exits="raise SystemExit")
  with pytest.raises(jaxplay.UserError) as refused:
    _load(folder, optimizer=name)
  message = str(refused.value)
  assert says in message and "\n" not in message


@pytest.mark.parametrize(
  "name", ["types.py:T", "random.py:T", "my-model.py:T", "sub/mixer.py:T"]
)
def test_file_names_of_any_kind(tmp_path, name):
  """A file may be called as a module of Python's, or as no module can be."""
  path = tmp_path / name.split(":")[0]
  path.parent.mkdir(exist_ok=True)
  path.write_text("def T(learning_rate, alpha=0.25): ...")
  config = config_lib.load(
    parts_here.config_file(tmp_path, [f"config.optimizer = {name!r}"])
  )
  assert config.hparams.alpha == 0.25


def test_annotations_that_are_texts(tmp_path):
  """As of `from __future__ import annotations`: all whose names exist."""
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub" / "late.py").write_text(
    "from __future__ import annotations\n"
    "from typing import Annotated\n"
    "class T:\n"
    "  a: Annotated[int, '[1, 5]'] = 3\n"
    "class U(T):\n"
    "  b: Absent = 3\n"
    "class V:\n"
    "  def __call__(self, learning_rate, a: Annotated[int, '[1, 5]'] = 3): ..."
    "\nv = V()\n"
  )
  for switch, name, key in (
    ("task.name", "T", "task.a"),
    ("task.name", "U", "task.a"),
    ("optimizer", "v", "hparams.a"),
  ):
    rows = config_lib.own.declare(switch, f"sub/late.py:{name}", str(tmp_path))
    (within,) = (row[5] for row in rows if row[0] == "key" and row[3] == key)
    assert within == "[1, 5]"


def test_packages_and_installed_modules(tmp_path):
  """package.module:NAME is looked for beside the config, then installed."""
  package = tmp_path / "lib" / "inner"
  package.mkdir(parents=True)
  for init in (package, package.parent):
    (init / "__init__.py").write_text("")
  (package / "rules.py").write_text(
    "from lib.inner import numbers\ndef f(learning_rate, a=numbers.A): ..."
  )
  (package / "numbers.py").write_text("A = 0.5")
  file = parts_here.config_file(
    tmp_path, ['config.optimizer = "lib.inner.rules:f"']
  )
  config = config_lib.load(file)
  assert config.hparams.a == 0.5
  names = usercode.files(["lib.inner.rules:f"], str(tmp_path))
  assert "lib/inner/numbers.py" in names
  installed = config_lib.load(
    file, {"optimizer": "optax.contrib:ademamix", "hparams.alpha": "2.0"}
  )
  assert installed.hparams.alpha == 2.0
  assert usercode.files(["optax:adam"], str(tmp_path)) == {}


def test_folders_do_not_share_modules(tmp_path):
  """Two folders may each have a mixer.py with its blocks.py."""
  widths = []
  for i, width in enumerate((3, 5)):
    folder = parts_here.write(
      tmp_path / str(i), blocks=f"WIDTH = {width}\ndef mix(x, a): return x"
    )
    (folder / "mixer.py").write_text(
      "import blocks\ndef M(width: int = blocks.WIDTH): ..."
    )
    file = parts_here.config_file(folder, ['config.model.name = "mixer.py:M"'])
    widths.append(config_lib.load(file).model.width)
  assert widths == [3, 5]
  assert "blocks" not in sys.modules


def test_code_is_what_parts_import(folder):
  """P2: the digest covers what is imported, and not the config file."""
  first = _load(folder)
  assert set(
    usercode.files(["mixer.py:Mixer", "rules.py:heavy"], str(folder))
  ) == {"mixer.py", "blocks.py", "rules.py"}
  (folder / "unused.py").write_text("")
  assert _load(folder, "config.seed = 3").code == first.code
  (folder / "blocks.py").write_text(parts_here.BLOCKS + "# another\n")
  assert _load(folder).code != first.code


@pytest.mark.parametrize("where", ["mixer.py", "../common/mixer.py"])
def test_copies_stand_alone(tmp_path, where):
  """P2: a copy is used where the originals are gone; a changed one is not."""
  home, place = tmp_path / "home", "../common" in where
  folder = home / "exp"
  parts_here.write(home / "common" if place else folder)
  folder.mkdir(exist_ok=True)
  file = parts_here.config_file(
    folder, [f'config.model.name = "{where}:Mixer"', "config.model.patch = 2"]
  )
  config = config_lib.load(file)
  run = rundir.RunDir(tmp_path / "run")
  run.create()
  config_lib.write_code(config, run.path)
  run.write_config(config_lib.stored(config))
  home.rename(tmp_path / "gone")
  usercode.forget()
  again = config_lib.load(str(run.path / "config.json"))
  part = config_lib.own.load(
    "model.name", again.model.name, config_lib.own.folder(again.code)
  )
  assert part.__name__ == "Mixer"
  (copy,) = (run.path / "code").rglob("mixer.py")
  copy.write_text(copy.read_text() + "\n")
  usercode.forget()
  config_lib.load(str(run.path / "config.json"))
  with pytest.raises(jaxplay.UserError, match="mixer.py"):
    config_lib.own.folder(again.code)


@pytest.mark.parametrize(
  "manifest",
  [
    {"base": "..", "source": "", "files": {"x.py": "0"}},
    {"base": ".", "source": "", "files": {"../../x.py": "0"}},
    {"base": ".", "source": "", "files": {"/etc/passwd": "0"}},
    {"base": ".", "source": ""},
    {"base": ".", "source": "", "files": {"link.py": "0"}},
    {"base": ".", "source": "", "files": {}},
  ],
)
def test_hostile_copies(tmp_path, manifest):
  """R1: a manifest leads nowhere else, and a link is not followed."""
  code = "0123456789abcdef" * 4
  copy = tmp_path / "run" / "code" / code[:16]
  copy.mkdir(parents=True)
  (tmp_path / "x.py").write_text(HOSTILE)
  (copy / "link.py").symlink_to(tmp_path / "x.py")
  (copy / "files.json").write_text(json.dumps(manifest))
  usercode.forget()
  usercode.look_in(tmp_path / "run")
  with pytest.raises(jaxplay.UserError) as refused:
    usercode.folder_of(code)
  assert "\n" not in str(refused.value)


def test_unknown_code_is_refused(tmp_path):
  usercode.forget()
  with pytest.raises(jaxplay.UserError, match="config file"):
    usercode.folder_of("f" * 64)


def test_a_study_may_choose_between_parts(folder):
  """Each trial has the defaults of its part, and keys of its own."""
  file = parts_here.config_file(folder, parts_here.SMALL)
  study = study_lib.Study(
    goal="which?",
    config=file,
    space={
      "optimizer": space_lib.Choice(
        ("rules.py:heavy", "optax:adam", "nesterov"), role="scientific"
      ),
      "hparams.beta": space_lib.Float(
        0.1, 0.9, when={"optimizer": "rules.py:heavy"}
      ),
      "hparams.b2": space_lib.Float(
        0.9, 0.99, when={"optimizer": "optax:adam"}
      ),
    },
    num_trials=6,
  )
  definition, _ = study_lib.load(study)
  for optimizer, key in (
    ("rules.py:heavy", "hparams.beta"),
    ("optax:adam", "hparams.b2"),
  ):
    config = study_lib.trial_config(
      definition["config"], {"optimizer": optimizer, key: 0.9}
    )
    flat = config_lib.flatten(config)
    assert flat[key] == 0.9
    assert flat["hparams.b1"] == 0.9
  with pytest.raises(jaxplay.UserError, match="hparams.beta"):
    bad = {"hparams.beta": space_lib.Float(0.1, 0.9)}
    study_lib.load(
      study_lib.Study(
        goal="?",
        config=file,
        space=bad,
        num_trials=2,
        overrides={"optimizer": "nesterov"},
      )
    )


def test_files_of_data_are_beside_the_config(tmp_path, monkeypatch):
  """Or in the current folder, if they are there alone."""
  home, here = tmp_path / "home", tmp_path / "here"
  home.mkdir()
  here.mkdir()
  file = parts_here.config_file(home, ["config.max_train_steps = 3"])
  monkeypatch.chdir(here)

  def name():
    return config_lib.load(file, {"dataset.name": "npz:a.npz"}).dataset.name

  assert name() == f"npz:{home / 'a.npz'}"  # In no folder.
  (here / "a.npz").touch()
  assert name() == f"npz:{here / 'a.npz'}"
  (home / "a.npz").touch()
  assert name() == f"npz:{home / 'a.npz'}"


def test_names_on_the_command_line_are_beside_the_config(folder, monkeypatch):
  """As those in the file, from whatever folder the command is typed."""
  file = parts_here.config_file(folder, ["config.max_train_steps = 3"])
  monkeypatch.chdir(folder.parent)
  config = config_lib.load(
    os.path.relpath(file),
    {"hparams.beta": "0.5", "optimizer": "rules.py:heavy"},
  )
  assert config.hparams.beta == 0.5
  assert pathlib.Path(config_lib.own.folder(config.code)) == folder
  assert userfiles.running() is None


def test_a_study_without_its_code_is_refused_as_a_whole(folder, tmp_path):
  """P2: nothing is written if the copy that is needed is gone."""
  study = study_lib.Study(
    goal="?",
    config=parts_here.config_file(folder, parts_here.SMALL),
    space={"hparams.beta": space_lib.Float(0.1, 0.9)},
    num_trials=2,
  )
  definition, _ = study_lib.load(study)
  directory = study_lib.StudyDir(tmp_path / "study")
  directory.create(definition)
  shutil.rmtree(tmp_path / "study" / "code")
  shutil.rmtree(folder)
  usercode.forget()
  before = directory.study()
  with pytest.raises(jaxplay.UserError, match="config file"):
    jaxplay.extend_study(directory.path, 4)
  assert directory.study() == before
