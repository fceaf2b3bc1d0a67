"""Who may import whom (DESIGN.md, floors), read from the source itself."""

import ast
import pathlib

import jaxplay
from jaxplay import config as config_lib
from jaxplay import models
from jaxplay.config import metric, parts
from jaxplay.data import files
from jaxplay.models import resnet, transformer
from jaxplay.training import optimizers, schedules, sharding

ROOT = pathlib.Path(jaxplay.__file__).parent

# Modules of jaxplay/, by path: "training/step.py".
SOURCES = {
  path.relative_to(ROOT).as_posix(): path.read_text()
  for path in sorted(ROOT.rglob("*.py"))
}

# Each package, and those of ours that it may import beside itself, as
# docs/architecture.md explains. UserError, of `jaxplay` itself, is open to all.
GROUND = ("models", "data", "rundir", "finding", "formats", "config")
GROUND += ("commands", "installed", "lifeline", "storage", "terminal")
GROUND += ("userfiles", "usercode", "writers")
BELOW = (*GROUND, "provenance")
READS = (*BELOW, "study", "analysis")
FLOORS = {
  **{name: () for name in GROUND},
  "config": ("userfiles", "usercode"),
  "usercode": ("userfiles", "rundir"),
  "rundir": ("storage",),
  "writers": ("config", "rundir"),
  "provenance": GROUND,
  "training": BELOW,
  "study": BELOW,
  "pods": (*BELOW, "training"),
  "analysis": (*BELOW, "study"),
  "playbook": (*READS, "training", "pods"),
  "longest_run": (*BELOW, "playbook"),
  "scaling": (*READS, "training", "pods", "playbook"),
  "report": (*READS, "playbook", "scaling"),
  "api": (
    *READS,
    *("training", "pods", "playbook", "longest_run", "scaling", "report"),
  ),
  "cli": (*READS, "training", "pods", "playbook", "scaling", "report", "api"),
}
# What is read from a run directory must not need the machine that made it.
NEEDS_NO_JAX = ("training", "models")
COMPILE = ("pods/topology.py", "pods/probe.py", "pods/estimate.py")

# Within training only downwards, from the last to the first.
TRAINING = (
  ("schedules", "sharding", "scores", "host", "resume", "memory"),
  ("optimizers", "tasks", "metrics", "checksum", "orbax_errors"),
  ("own_task", "parts", "diagnostics"),
  ("step", "checkpoint_files", "record"),
  ("evaluate", "checkpoint", "packed"),
  ("feed", "weights"),
  ("workload",),
  ("population_feed", "loop"),
  ("programs",),
  ("train", "population", "branch", "sharpness", "landscape"),
  ("dry_run",),
)

# One door per dependency.
DOORS = {
  "flax": ("models/",),
  "grain": ("data/",),
  "tensorflow_datasets": ("data/",),
  "tensorflow": (),
  "datasets": ("data/files.py",),
  "pyarrow": ("data/tables.py",),
  "orbax": ("training/checkpoint.py", "training/checkpoint_files.py"),
  "optuna": ("analysis/optuna_export.py", "study/suggest.py"),
  "altair": ("analysis/plots", "playbook/plots.py", "scaling/plots.py"),
  "vl_convert": ("report/",),
  "tokenizers": ("data/text.py",),
  "tensorboard": ("writers/tensorboard.py",),
  "wandb": ("writers/wandb.py",),
  "trackio": ("writers/trackio.py",),
  "mlflow": ("writers/mlflow.py",),
  "safetensors": ("training/weights.py",),
  # data, which imports nothing of ours: the facts of its cache.
  "msgspec": ("rundir/", "data/text.py"),
  "argparse": ("cli/",),
  # data: grain's workers ask absl whether its flags were parsed.
  "absl": ("data/__init__.py",),
}


def _imports(source, top_level_only=False):
  """Modules that a source imports, as full dotted names."""
  tree = ast.parse(source)
  nodes = ast.walk(tree)
  if top_level_only:
    inside = {
      id(inner)
      for outer in ast.walk(tree)
      if isinstance(outer, ast.FunctionDef)
      for inner in ast.walk(outer)
    }
    nodes = [node for node in ast.walk(tree) if id(node) not in inside]
  names = []
  for node in nodes:
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, "relative imports hide the floor"
      names += [f"{node.module}.{alias.name}" for alias in node.names]
  return names


def _package(path):
  """models/norm.py -> models; report.py -> report; __init__.py -> ""."""
  first = path.split("/")[0].removesuffix(".py")
  return "" if first == "__init__" else first


def _module_exists(name):
  path = name.replace(".", "/")
  return f"{path}.py" in SOURCES or f"{path}/__init__.py" in SOURCES


def _ours(path, **kwargs):
  """The parts of ours that `path` imports: "training.step", "models"."""
  for name in _imports(SOURCES[path], **kwargs):
    if name == "jaxplay" or not name.startswith("jaxplay."):
      continue
    name = name.removeprefix("jaxplay.")
    while not _module_exists(name):  # a function of a module
      name = name.rpartition(".")[0]
      assert name, f"{path} imports what does not exist"
    yield name


def test_floors():
  """Floors: a package imports only from the floors below it and itself."""
  assert {_package(path) for path in SOURCES} - {""} <= FLOORS.keys()
  for path in SOURCES:
    package = _package(path)
    for name in _ours(path):
      target = name.split(".")[0]
      # The package itself names the public functions, which are imported late.
      allowed = (package, *FLOORS[package]) if package else FLOORS
      assert target in allowed, f"{path} imports jaxplay.{name}"


def test_only_training_and_models_import_jax():
  """Floors: a laptop reads a pod's run without JAX; some import it late."""
  for path in SOURCES:
    package = _package(path)
    late_is_allowed = package in ("api", "cli", "playbook", "scaling")
    names = _imports(SOURCES[path], top_level_only=late_is_allowed)
    if package not in NEEDS_NO_JAX and path not in COMPILE:
      jax = [n for n in names if n.split(".")[0] in ("jax", "jaxlib", "optax")]
      assert not jax, f"{path} imports {jax}"
      late = ("jaxplay.training", "jaxplay.pods")
      training = [n for n in names if n.startswith(late)]
      is_pods = path.startswith("pods/")
      assert is_pods or not training, f"{path} imports {training}"


def test_one_door_per_dependency():
  """Floors: each outside library is imported in one place only."""
  for path, source in SOURCES.items():
    for name in _imports(source):
      doors = DOORS.get(name.split(".")[0])
      if doors is not None:
        assert path.startswith(doors), f"{path} imports {name}"


def test_only_sharding_says_partition_spec():
  """Floors: training/sharding.py alone says Mesh and PartitionSpec."""
  words = ("Mesh", "PartitionSpec", "NamedSharding", "AxisType", "make_mesh")
  for path, source in SOURCES.items():
    if path == "training/sharding.py":
      continue
    for node in ast.walk(ast.parse(source)):
      if isinstance(node, ast.Attribute):
        owner = getattr(node.value, "id", "")
        if node.attr == "make_mesh" and owner == "sharding":
          continue
        assert node.attr not in words, f"{path} says {node.attr}"
      elif isinstance(node, ast.Name):
        assert node.id not in words, f"{path} says {node.id}"


def test_training_imports_downwards():
  """Floors: schedules -> optimizers -> step -> feed -> workload -> train."""
  level = {name: i for i, names in enumerate(TRAINING) for name in names}
  for path in SOURCES:
    if _package(path) != "training" or path.endswith("__init__.py"):
      continue
    name = path.removeprefix("training/").removesuffix(".py")
    for imported in _ours(path):
      package, _, module = imported.partition(".")
      if package == "training":
        assert level[module] < level[name], f"{path} imports {module}"


def test_tables_written_twice_agree():
  """Floors: what config cannot import, it repeats without a difference."""
  assert tuple(config_lib.MODELS) == tuple(models.FAMILIES)
  assert tuple(config_lib.ACTIVATIONS) == tuple(models.ACTIVATIONS)
  assert tuple(config_lib.REMAT) == tuple(transformer.REMAT)
  assert tuple(config_lib.RESNET_DEPTHS) == tuple(resnet.STAGES)
  assert tuple(config_lib.OPTIMIZERS) == tuple(optimizers.OPTIMIZERS)
  assert tuple(config_lib.SCHEDULES) == tuple(schedules.SCHEDULES)
  assert tuple(config_lib.COOLDOWN_SHAPES) == tuple(schedules.COOLDOWN_SHAPES)
  assert all(f"writers/{n}.py" in SOURCES for n in config_lib.WRITERS)
  assert tuple(config_lib.OWN_FILES) == tuple(files.KINDS)
  assert tuple(config_lib.MESH_PRESETS) == tuple(sharding.PRESETS)


def test_switches_name_existing_values():
  """Config: what decides whether a key has an effect is a key and a value."""
  for name, key in config_lib.KEYS.items():
    if key.used_by is None:
      continue
    switch, values = key.used_by
    choices = config_lib.KEYS[switch].choices or (True, False)
    if switch == "averages":
      choices = config_lib.AVERAGES
    if switch == "task.name":
      choices = ("", *metric.TASKS)
    assert set(values) <= set(choices), name


def test_every_key_of_a_part_has_one_switch():
  """Config: parts of one switch share a key as one declaration."""
  switches = {}
  for switch, of_switch in parts.PARTS.items():
    for part, own in of_switch.items():
      for name, key in own.items():
        assert switches.setdefault(name, (switch, key)) == (switch, key), part
        assert config_lib.KEYS[name].used_by[0] == switch


def test_every_number_has_a_range():
  """Config: every number is checked, and its default passes."""
  for name, key in config_lib.KEYS.items():
    # Those of the mesh are -1 or a number of devices, checked with these.
    if type(key.default) in (int, float) and not name.startswith("mesh."):
      assert key.holds(key.default), name
    assert not key.choices or key.default in key.choices, name


def test_every_key_says_what_it_means():
  """Config: what `jaxplay config` prints is enough to go by."""
  for name, key in config_lib.KEYS.items():
    assert len(key.comment) > 5 and "\n" not in key.comment, name
    assert key.transfers in ("very likely", "likely", "might", "unlikely")
