"""Does a better mixture of texts in the cooldown help? (Hägele et al. 2024)

    python experiments/cooldown_lm/mixture.py runs/mixture

The text that counts is the prose of Python's documentation, of which there is
little; most of what is trained on is code. Three ways to spend 1,500 steps:

same    90% code and 10% prose throughout
more    the same base run, but half prose in the cooldown, its last 300 steps
even    as much prose in all as `more`, 18% throughout

The same command resumes.

Data    the modules of the standard library that are no packages; the topics of
        pydoc, every eighth for validation
Cost    3 seeds, 3,300 steps each; twelve minutes on 2 CPU cores with much
        other load
Expect  validation loss on prose, nats per byte: same 1.724 +- 0.016, more 1.575
        +- 0.013, even 1.641 +- 0.012, mean and standard deviation of the seeds
        (Python 3.11.7; other versions have other texts)
"""

import pathlib
import sys
import sysconfig
from pydoc_data import topics

import paired

import jaxplay as jp

STEPS = 1_500
COOLDOWN = 0.2
SEEDS = (0, 1, 2)
CODE = f"text:{sysconfig.get_path('stdlib')}/*.py"
HERE = pathlib.Path(__file__).parent


def write_prose(folder):
  """Writes the topics to train/ and valid/; they share no topic."""
  for place, (topic, text) in enumerate(sorted(topics.topics.items())):
    part = folder / ("train" if place % 8 else "valid")
    part.mkdir(parents=True, exist_ok=True)
    path = part / f"{topic}.txt"
    if not path.exists():
      path.write_text(text, encoding="utf-8")


def mixed(prose, share):
  """A mixture with a share of prose."""
  return ((CODE, round(1 - share, 6)), (prose, share))


def losses(workdir, seed):
  """Validation losses on prose, name -> nats per byte."""
  prose = f"text:{workdir / 'prose' / 'train'}/*.txt"
  config = jp.load_config(HERE / "config.py")
  config.seed = seed
  config.dataset.name = prose
  config.dataset.valid_files = f"{workdir / 'prose' / 'valid'}/*.txt"
  start = round(STEPS * (1 - COOLDOWN))
  config.max_train_steps = start
  config.keep_steps = (start,)
  config.dataset.mixtures = ((0, mixed(prose, 0.1)),)
  folder, found = workdir / f"seed_{seed}", {}
  base = jp.train(config, folder / "base")
  for name, share in (("same", 0.1), ("more", 0.5)):
    (run,) = jp.branch(
      base.path,
      folder / name,
      step=start,
      cooldown_fraction=COOLDOWN,
      mixture=mixed(prose, share),
    )
    found[name] = paired.loss_at(run, STEPS)
  config.keep_steps = ()
  config.max_train_steps = STEPS
  config.schedule = "wsd"
  config.hparams.cooldown_fraction = COOLDOWN
  even = 0.1 + COOLDOWN * (0.5 - 0.1)
  config.dataset.mixtures = ((0, mixed(prose, round(even, 6))),)
  found["even"] = paired.loss_at(jp.train(config, folder / "even"), STEPS)
  return found


def main(workdir):
  """Trains all runs, and prints their losses and differences."""
  write_prose(workdir / "prose")
  rows = [losses(workdir, seed) for seed in SEEDS]
  paired.show(rows, [("more", "same"), ("more", "even"), ("even", "same")])


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
