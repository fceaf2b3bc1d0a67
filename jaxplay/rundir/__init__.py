"""A run on disk: the interface between training, which writes, and all readers.

    RUN/config.json        resolved config, nested, sorted keys
        provenance.json    what made it: git commit, diff, versions, devices
        metrics.jsonl      a line per logged step, in order, append-only
        status.json        how it stands and how it ended; replaced atomically
        checkpoints/       by orbax
        checkpoints.json   of a trial of a population: where they are instead
        init.json          which weights it started from, if not random ones
        examples.npz       cost of each validation example, best and last
        predictions/       a fixed sample of examples at each evaluation
        export/            the best checkpoint's forward function
        code/              the user's code that it was made of, if any
        tensorboard/       event files, if config.writers has it
        writers.json       the run's id in other programs

Needs only the standard library, numpy and msgspec, so a laptop reads a pod's
run; in a bucket (gs://) also etils and gcsfs.

    paths.py       paths here and in buckets, links
    writing.py     atomic replacement, appending, folders
    reading.py     JSON with checked types
    shapes.py      these types
    metrics.py     lines of metrics.jsonl
    examples.py    costs of examples
    directory.py   what runs, studies, ladders and plans share: lock, provenance
    run.py         the run directory
"""

from jaxplay.rundir.directory import Directory, absent, refuse_other
from jaxplay.rundir.examples import Examples
from jaxplay.rundir.metrics import Digest, as_line, best_line, best_lines
from jaxplay.rundir.paths import (
  absolute,
  at,
  is_local,
  refuse_links,
  refuse_links_in,
)
from jaxplay.rundir.reading import (
  Damaged,
  check_shape,
  read_bytes,
  read_json,
)
from jaxplay.rundir.run import RunDir
from jaxplay.rundir.shapes import (
  DONE,
  STATUSES,
  Above0,
  BaseConfig,
  Config,
  Count,
  FindingRow,
  Init,
  Name,
  Packed,
  Positive,
  Provenance,
  RunStatus,
  Seconds,
  Share,
)
from jaxplay.rundir.writing import (
  copy,
  make_folder,
  open_to_append,
  plain,
  remove,
  replacing,
  write_bytes,
  write_json,
  write_text,
  written,
)

__all__ = [
  "Above0",
  "absent",
  "absolute",
  "as_line",
  "at",
  "BaseConfig",
  "best_line",
  "best_lines",
  "check_shape",
  "Config",
  "copy",
  "Count",
  "Damaged",
  "Digest",
  "Directory",
  "DONE",
  "Examples",
  "FindingRow",
  "Init",
  "is_local",
  "make_folder",
  "Name",
  "open_to_append",
  "Packed",
  "plain",
  "Positive",
  "Provenance",
  "read_bytes",
  "read_json",
  "refuse_links",
  "refuse_links_in",
  "refuse_other",
  "remove",
  "replacing",
  "RunDir",
  "RunStatus",
  "Seconds",
  "Share",
  "STATUSES",
  "write_bytes",
  "write_json",
  "write_text",
  "written",
]
