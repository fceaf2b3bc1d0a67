"""jaxplay: the Deep Learning Tuning Playbook as working software."""

__version__ = "0.1.0"


class UserError(Exception):
  """A request that cannot be carried out as written.

  The message is one sentence for the person who wrote it: what is wrong, where,
  and how to mend it. The command line prints it and exits with code 2.
  """
