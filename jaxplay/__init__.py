"""jaxplay: the Deep Learning Tuning Playbook as working software."""

__version__ = "0.1.0"


class UserError(Exception):
  """A request that cannot be carried out as written.

  The message is one sentence for the person who wrote it: what is wrong, where,
  and how to mend it. The command line prints it and exits with code 2.
  """


class StorageError(Exception):
  """A disk that is full, lost or broken; see `jaxplay.storage`.

  The message is one sentence: what happened, where, how much room there is, and
  what to do. The command line prints it and exits with code 1; the same command
  goes on from what was saved.
  """
