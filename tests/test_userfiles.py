"""Files of the user's: what they import from beside them, what they leave."""

import importlib
import json
import sys

import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import userfiles
from jaxplay.study import study as study_lib

_CONFIG = """
from jaxplay import config as config_lib

import common


def get_config():
  import parts.deep  # late, as a function may

  config = config_lib.base()
  config.hparams.learning_rate = common.RATE
  config.model.width = parts.deep.WIDTH
  return config
"""
_STUDY = """
import common
from jaxplay.study import space, study

def get_study():
  return study.Study(
    goal=common.GOAL,
    config={config!r},
    space={{"hparams.momentum": space.Float(0.1, 0.9)}},
    num_trials=1,
  )
"""


def _write(folder, rate, width=8):
  """A config and a study of a folder, whose values its own modules hold."""
  (folder / "parts").mkdir(parents=True)
  (folder / "config.py").write_text(_CONFIG)
  (folder / "study.py").write_text(_STUDY.format(config="config.py"))
  (folder / "common.py").write_text(f"RATE = {rate}\nGOAL = 'of {rate}'\n")
  (folder / "parts" / "deep.py").write_text(f"WIDTH = {width}\n")
  return folder


def _rate(folder):
  return config_lib.load(str(folder / "config.py")).hparams.learning_rate


def test_the_folder_of_a_file_can_be_imported(tmp_path, monkeypatch):
  """R6: a module and a package beside it, at once and late, from anywhere."""
  folder = _write(tmp_path / "a b", 0.25, 24)
  for path, where in (("config.py", folder), ("a b/config.py", tmp_path)):
    monkeypatch.chdir(where)
    config = config_lib.load(path)
    assert config.hparams.learning_rate == 0.25 and config.model.width == 24


def test_each_folder_has_its_own_modules(tmp_path):
  """R6: of one name in one process; also from within another file."""
  one, two = _write(tmp_path / "one", 0.1), _write(tmp_path / "two", 0.2)
  assert [_rate(folder) for folder in (one, two, one)] == [0.1, 0.2, 0.1]
  nested = "from jaxplay import config\n"
  nested += f"inner = config.load({str(two / 'config.py')!r})\n"
  nested += "import common\nassert common.RATE == 0.1\n"
  nested += "def get_config():\n  import common\n"
  nested += "  assert common.RATE == 0.1\n  return inner\n"
  (one / "nested.py").write_text("import common\n" + nested)
  config = config_lib.load(str(one / "nested.py"))
  assert config.hparams.learning_rate == 0.2
  # A study of one folder with the config of another.
  text = _STUDY.format(config=str(two / "config.py"))
  (one / "study.py").write_text(text)
  definition, _ = study_lib.load(str(one / "study.py"))
  assert definition["goal"] == "of 0.1"
  assert definition["config"]["hparams"]["learning_rate"] == 0.2


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(tmp_path, fails):
  """R6: neither of the path, nor of the modules, nor a compiled file."""
  folder = _write(tmp_path / "one", 0.1)
  if fails:
    (folder / "common.py").write_text("import parts.deep\n1 / 0\n")
  before = list(sys.path), set(sys.modules), sys.dont_write_bytecode
  if fails:
    with pytest.raises(jaxplay.UserError, match="ZeroDivisionError"):
      _rate(folder)
  else:
    _rate(folder)
  assert before[0] == sys.path and before[2] == sys.dont_write_bytecode
  new = set(sys.modules) - before[1]
  assert not {name.partition(".")[0] for name in new} & {"common", "parts"}
  assert not list(folder.rglob("__pycache__"))


def test_an_edit_is_seen(tmp_path):
  """R6: within a second and of the same length, in one process."""
  folder = _write(tmp_path / "one", 0.1)
  assert _rate(folder) == 0.1
  (folder / "common.py").write_text("RATE = 0.2\nGOAL = 'of 0.2'\n")
  assert _rate(folder) == 0.2


def test_a_module_is_imported_once(tmp_path):
  """R6: study and config of a folder share what they import, as a program's
  modules do: what registers itself may not do so twice."""
  folder = _write(tmp_path / "one", 0.1)
  count = tmp_path / "count"
  with open(folder / "common.py", "a") as file:
    file.write(f"with open({str(count)!r}, 'a') as f:\n  f.write('.')\n")
  study_lib.load(str(folder / "study.py"))
  assert count.read_text() == "."


@pytest.mark.parametrize("name", ["json", "jaxplay", "numpy"])
def test_what_is_loaded_is_not_shadowed(tmp_path, name):
  """R6: a file that is called as a library, which Python has loaded."""
  folder = _write(tmp_path / "one", 0.1)
  (folder / f"{name}.py").write_text("raise ValueError('mine')\n")
  library = importlib.import_module(name)
  with open(folder / "common.py", "a") as file:
    file.write(f"import {name}\nassert {name}.__file__ != __file__\n")
  assert _rate(folder) == 0.1
  assert sys.modules[name] is library


def test_what_ran_is_known(tmp_path):
  """R4: the file, and modules from beside it, as they were when they ran."""
  folder = _write(tmp_path / "one", 0.1)
  userfiles.forget()
  study_lib.load(str(folder / "study.py"))
  names = ("study.py", "common.py", "config.py", "parts/deep.py")
  paths = [folder / name for name in names]
  expected = {str(path): path.read_bytes() for path in paths}
  assert userfiles.ran() == expected
  (folder / "config.py").write_text("")
  assert userfiles.ran() == expected
  path = tmp_path / "config.json"
  path.write_text(json.dumps(config_lib.as_json(config_lib.base())))
  userfiles.forget()
  config_lib.load(str(path))
  assert userfiles.ran() == {str(path): path.read_bytes()}
