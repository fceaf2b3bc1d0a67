"""The base config as an experiment file, for command-line tests."""

from jaxplay import config


def get_config():
  return config.base()
