"""Puts experiments/ and launch/ into the wheel, below jaxplay/.

An editable installation finds them beside the package; `jaxplay.installed`
knows both places. All else is in pyproject.toml.
"""

import pathlib
import shutil

import setuptools
from setuptools.command import build_py


class BuildPy(build_py.build_py):
  """Copies the two folders after the modules of the package."""

  def run(self):
    super().run()
    if self.editable_mode:
      return
    for folder in ("experiments", "launch"):
      shutil.copytree(
        folder,
        pathlib.Path(self.build_lib, "jaxplay", folder),
        ignore=shutil.ignore_patterns("__pycache__"),
        dirs_exist_ok=True,
      )


setuptools.setup(cmdclass={"build_py": BuildPy})
