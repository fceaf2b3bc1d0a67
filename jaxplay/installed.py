"""What is installed beside the package: the extra `train`, and folders.

`python -m jaxplay.installed experiments` prints where the experiments are, and
`launch` where the launchers are.
"""

import importlib.util
import pathlib
import sys

import jaxplay

FOLDERS = ("experiments", "launch")
# Packages of the extra `train` that jaxplay imports, by the name of the import.
_TRAIN = (
  *("PIL", "array_record", "clu", "etils", "flatbuffers", "flax", "grain"),
  *("jax", "jaxlib", "jaxtyping", "optax", "orbax", "tensorflow_datasets"),
)
_HINT = "is not installed; training needs it: pip install 'jaxplay[train]'"


def require_training() -> None:
  """Checks that JAX is installed, without importing it.

  Raises:
    jaxplay.UserError: It is not: only reading, checks and reports work.
  """
  if importlib.util.find_spec("jax") is None:
    raise jaxplay.UserError(f"JAX {_HINT}")


def problem(error: BaseException) -> str | None:
  """Explains an import that failed because the extra `train` is missing.

  Args:
    error: Any exception.

  Returns:
    A sentence with the command that installs it, or None for other errors.
  """
  if not isinstance(error, ModuleNotFoundError) or error.name is None:
    return None
  package = error.name.partition(".")[0]
  if package not in _TRAIN:
    return None
  return f"{package} {_HINT}"


def folder(name: str) -> pathlib.Path:
  """Finds a folder that comes with jaxplay.

  Args:
    name: "experiments" or "launch".

  Returns:
    The folder inside the installed package or, of an editable installation,
    beside it.
  """
  package = pathlib.Path(__file__).resolve().parent
  inside = package / name
  return inside if inside.is_dir() else package.parent / name


def main() -> int:
  """Prints the folder that the only argument names; returns the exit code."""
  names = sys.argv[1:]
  if len(names) != 1 or names[0] not in FOLDERS:
    print(f"usage: python -m jaxplay.installed {'|'.join(FOLDERS)}")
    return 2
  print(folder(names[0]))
  return 0


if __name__ == "__main__":
  sys.exit(main())
