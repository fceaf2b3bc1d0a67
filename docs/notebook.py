# %% [markdown]
# # A study in a notebook
#
# Open this file in an editor that knows `# %%` cells, or run it as it is, from
# the root of a checkout. It takes a minute on two CPU cores.

# %%
import jaxplay as jp

config = jp.load_config("experiments/digits_mlp/config.py")
config.max_train_steps = 200
config.eval_every = 20

# %% [markdown]
# One run. It prints a progress bar, and resumes if the cell is run again.

# %%
run = jp.train(config, "runs/notebook/first")
run.status()["best"]

# %% [markdown]
# A study: a quasi-random search of two hyperparameters. All trials train
# together, as one program.

# %%
study = jp.Study(
  goal="Which learning rate and momentum?",
  config="experiments/digits_mlp/config.py",
  space={
    "hparams.learning_rate": jp.Float(1e-2, 10.0, scale="log"),
    "hparams.momentum": jp.Float(0.5, 0.99, scale="log_one_minus"),
  },
  overrides={"max_train_steps": 200, "eval_every": 20},
  num_trials=16,
)
jp.run_study(study, "runs/notebook/study")

# %% [markdown]
# Results are plain arrays, or a DataFrame where pandas is installed.

# %%
results = jp.read("runs/notebook/study")
columns = results.to_arrays()
rates, errors = columns["hparams.learning_rate"], columns["objective"]
rates[errors.argsort()[:3]]  # of the three best trials

# %% [markdown]
# What the playbook's checks report: is the space wide enough, were there enough
# trials, did training end too early?

# %%
jp.check(results)

# %% [markdown]
# The figures of the report, as Altair charts.

# %%
charts = jp.figures(results)
charts["hparams.learning_rate: every trial"]

# %% [markdown]
# The best trial with other seeds: how much of its lead is luck?

# %%
jp.rerun_study("runs/notebook/study", best=True, seeds=3, report=False)
results = jp.read("runs/notebook/study")
{
  index: [run.best(results.objective)[0] for run in runs]
  for index, runs in results.reruns.items()
}

# %% [markdown]
# The page with all figures, and the figures as files.

# %%
jp.write_report("runs/notebook/study", figures="runs/notebook/figures")

# %% [markdown]
# Should training be longer? A procedure of the playbook answers from the study.

# %%
jp.plan_steps(study="runs/notebook/study", workdir="runs/notebook/steps")
