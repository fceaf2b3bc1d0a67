"""What every test stands on: eight emulated devices and strict numbers."""

import os
import pathlib
import shutil
import tempfile

# Compiled programs of tests, and of the processes that they start, are shared
# among themselves and with nobody else. Before JAX is imported: it reads this.
_CACHE = "JAX_COMPILATION_CACHE_DIR"
_IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not _IS_WORKER:
  os.environ[_CACHE] = tempfile.mkdtemp(prefix="jaxplay-tests-")
# Programs of tests are small, and many tests train the same.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Tests compile much and run little: without optimization a third less time.
os.environ["XLA_FLAGS"] = " ".join(
  [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0"]
)

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Shapes in signatures are checked here, and cost nothing elsewhere.
jaxtyping.install_import_hook(
  ["jaxplay.data.order", "jaxplay.data.images", "jaxplay.training.tasks"],
  "beartype.beartype",
)

from jaxplay.training import sharding  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_unconfigure():
  if not _IS_WORKER:
    shutil.rmtree(os.environ[_CACHE], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs():
  """Frees compiled programs before their memory mappings run out.

  A process on Linux can have 65,530, a program has about a hundred, and XLA
  crashes where it can have no more.
  """
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
    jax.clear_caches()


@pytest.fixture(scope="session")
def mesh():
  """Eight devices, over which batches are split."""
  return sharding.make_mesh(data=8, fsdp=1, tensor=1)


@pytest.fixture(scope="session")
def tiny_tfds_dir(tmp_path_factory):
  """A folder with every config of `tiny_tfds` prepared."""
  from tests.data import tiny_tfds

  folder = tmp_path_factory.mktemp("tfds")
  for kind in tiny_tfds.SHAPES:
    tiny_tfds.prepare(folder, kind)
  return str(folder)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory):
  """A finished study of eight trials, some of them infeasible; read only."""
  from jaxplay.study import space
  from tests.study import studies

  folder = tmp_path_factory.mktemp("studies")
  varied = {
    "hparams.learning_rate": space.Float(1e-3, 1e12, "log", role="scientific"),
    "hparams.momentum": space.Float(0.5, 0.99, "log_one_minus"),
  }
  path = studies.write(folder, space=varied, num_trials=8)
  code = studies.call("study", "run", path, f"--workdir={folder / 'finished'}")
  assert code == 0
  return folder / "finished"
