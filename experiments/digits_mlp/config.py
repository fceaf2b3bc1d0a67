from jaxplay import config as config_lib


def get_config():
  config = config_lib.base()
  return config
