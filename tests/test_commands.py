"""Commands to paste: what was typed, and nothing else changed."""

import json
import shlex

import pytest

from jaxplay import commands

_TRAIN = [
  *("jaxplay", "train", "--config=a b.py:größe", "--workdir", "runs/x"),
  *("--config.seed", "1", "--config.name=--seed", "--fake_devices=8"),
]


@pytest.mark.parametrize(
  ("options", "overrides", "old", "new"),
  [
    ({"--workdir": "y z"}, {}, ["--workdir", "runs/x"], ["--workdir=y z"]),
    ({"--fake_devices": None}, {}, ["--fake_devices=8"], []),
    ({}, {"seed": 2}, ["--config.seed", "1"], ["--config.seed=2"]),
    ({}, {"name": "a'b"}, ["--config.name=--seed"], ["--config.name=a'b"]),
  ],
)
def test_one_thing_changes(options, overrides, old, new):
  """R3: an option of one word or two is replaced where it stands."""
  start = _TRAIN.index(old[0])
  expected = [*_TRAIN[:start], *new, *_TRAIN[start + len(old) :]]
  found = commands.changed(_TRAIN, options, overrides)
  assert found == expected
  assert shlex.split(commands.line(found)) == expected


def test_what_was_not_given_is_added():
  """R3: at the end; an option without a value stays without one."""
  found = commands.changed(
    [*_TRAIN, "--dry_run"], {"--dry_run": True, "--new": True}, {"a.b": 0.5}
  )
  assert found == [*_TRAIN, "--dry_run", "--new", "--config.a.b=0.5"]


def test_of_what_is_given_twice_none_is_left():
  """R3: the last of several would win; it must not be an old one."""
  words = ["jaxplay", "train", "--config.seed=1", "--x", "--config.seed", "3"]
  assert commands.changed(words, {}, {"seed": 2}) == [
    *("jaxplay", "train", "--config.seed=2", "--x")
  ]


@pytest.mark.parametrize(
  "program",
  [
    ["jaxplay"],
    ["/a b/bin/python", "-m", "jaxplay.cli"],
    ["python", "launch/local.py", "--processes=2", "--devices=4", "--"],
  ],
)
def test_another_verb_keeps_program_and_devices(program):
  """R3: what was given of devices, and nothing that the verb has not."""
  words = [*program, *_TRAIN[1:], "--distributed", "--wait_seconds", "9"]
  assert commands.program(words) == program
  assert commands.kept(words, commands.DEVICES) == [
    *("--fake_devices=8", "--distributed", "--wait_seconds", "9")
  ]


def test_a_program_that_is_not_known():
  """R3: of studies whose command is not, or was recorded as a file."""
  assert commands.program([]) == ["jaxplay"]
  old = ["/lib/jaxplay/cli/__main__.py", "study", "run", "--fake_devices=2"]
  assert commands.program(old) == ["jaxplay"]
  assert commands.kept(old, commands.DEVICES) == ["--fake_devices=2"]


def test_what_a_launcher_adds_is_not_typed(monkeypatch):
  """R3: the launcher's own command, but not for processes of others."""
  given = ["train", "--config=c.py"]
  ours = [*given, "--coordinator=localhost:1", "--process_id=0"]
  program = ["python", "launch/local.py", "--processes=2", "--"]
  launched = {"arguments": given, "program": program}
  monkeypatch.setenv(commands.LAUNCH, json.dumps(launched))
  with commands.typed_as(ours):
    assert commands.typed() == [*program, *given]
  with commands.typed_as(["train", "--config=trial/config.json"]):
    assert commands.typed()[-2:] == ["train", "--config=trial/config.json"]
    assert "launch/local.py" not in commands.typed()
  launched = {"arguments": given, "file": "job.toml"}
  monkeypatch.setenv(commands.LAUNCH, json.dumps(launched))
  with commands.typed_as(ours):
    assert commands.typed() == ["jaxplay", *given]
    assert commands.launch()["file"] == "job.toml"
  monkeypatch.setenv(commands.LAUNCH, "{")
  with commands.typed_as(ours):
    assert commands.launch() is None and commands.typed()[-4:] == ours


@pytest.mark.parametrize(
  ("folder", "seed", "expected"),
  [
    ("runs/x/", 0, ("runs/x-seed-1", 1)),
    ("runs/x-seed-1", 1, ("runs/x-seed-2", 2)),
    ("gs://bucket/x", 0, ("gs://bucket/x-seed-1", 1)),
    ("x", 2**32 - 1, ("x-seed-0", 0)),
  ],
)
def test_a_fresh_folder(folder, seed, expected):
  """R3: beside the old one, and named by what differs."""
  assert commands.fresh_number(folder, "seed", seed) == expected


def test_a_fresh_folder_is_not_there_yet(tmp_path, monkeypatch):
  """R3: a seed that has a folder was tried; so has the current folder."""
  (tmp_path / "x-seed-1").mkdir()
  (tmp_path / "x").mkdir()
  assert commands.fresh_number(str(tmp_path / "x"), "seed", 0)[1] == 2
  monkeypatch.chdir(tmp_path / "x")
  assert commands.fresh(".", "run") == str(tmp_path / "x-run")
