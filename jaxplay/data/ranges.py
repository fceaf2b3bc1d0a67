"""Refuses labels and tokens out of range, wherever they are read.

TFDS writes -1 for an unknown label, as in hidden test sets. As an index that is
the last class, or the last token: every result would be silently wrong.
"""

import numpy as np

import jaxplay


def check(
  values: np.ndarray, limit: int, *, what: str, split: str, name: str, fix: str
) -> None:
  """Refuses values outside of [0, limit).

  Args:
    values: Integers of any shape, as they are stored.
    limit: Number of different values.
    what: Plural noun for the values, such as "labels".
    split: The split that they are from.
    name: Name of the data set.
    fix: What the user can do.

  Raises:
    jaxplay.UserError: Some are outside.
  """
  if not values.size:
    return
  lowest, highest = int(values.min()), int(values.max())
  if 0 <= lowest and highest < limit:
    return
  number = int(np.count_nonzero((values < 0) | (values >= limit)))
  raise jaxplay.UserError(
    f"the {split} split of dataset {name!r} has {number:,} {what} outside"
    f" [0, {limit:,}) among the {values.size:,} that were read, which lie in"
    f" [{lowest}, {highest}]; {fix}"
  )
