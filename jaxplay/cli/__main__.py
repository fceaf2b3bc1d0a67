"""`python -m jaxplay.cli`, where the script is not on the path."""

import sys

from jaxplay import cli

if __name__ == "__main__":
  sys.exit(cli.main())
