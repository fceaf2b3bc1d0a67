"""Resolves the locked versions for each platform and Python; writes nothing.

    python tools/resolve.py .venv/bin/uv

Each combination has to resolve with binary wheels alone. Exits with 1 if one
does not, and with 0 and a sentence if there is no network.
"""

import itertools
import subprocess
import sys

PLATFORMS = (
  "x86_64-unknown-linux-gnu",
  "aarch64-unknown-linux-gnu",
  "aarch64-apple-darwin",
)
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# What uv prints if it could not ask the package index.
OFFLINE = (
  "failed to fetch",
  "error sending request",
  "dns error",
  "could not connect",
  "network was disabled",
)


def resolve(uv: str, platform: str, python: str) -> str:
  """Resolves for one platform; returns what uv prints if it cannot."""
  command = [uv, "pip", "compile", "--quiet", "pyproject.toml"]
  command += ["--extra", "dev", "--extra", "docs"]
  command += ["--constraints", "requirements.lock"]
  command += ["--python-platform", platform, "--python-version", python]
  # promise, of tensorflow-datasets, is pure Python and has no wheel.
  command += ["--only-binary", ":all:", "--no-binary", "promise"]
  done = subprocess.run(command, capture_output=True, text=True)
  return "" if done.returncode == 0 else done.stderr


def main() -> int:
  (uv,) = sys.argv[1:]
  failed = False
  for platform, python in itertools.product(PLATFORMS, PYTHONS):
    error = resolve(uv, platform, python)
    if any(words in error.lower() for words in OFFLINE):
      print("No network: wheels for other platforms were not checked.")
      return 0
    print(f"{platform}, Python {python}: {'no' if error else 'resolves'}")
    if error:
      print(error, file=sys.stderr)
      failed = True
  return int(failed)


if __name__ == "__main__":
  sys.exit(main())
