"""`python -m spiral` is the command `spiral`."""

import sys

from spiral.cli import main

if __name__ == "__main__":
    sys.exit(main())
