"""`python -m fastpg` is the command `fastpg`."""

import sys

from fastpg.cli import main

if __name__ == "__main__":
    sys.exit(main())
