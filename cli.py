"""`python cli.py …` in a clone; installed, the command is `featuregen`."""

import sys

from featuregen.cli import main

if __name__ == "__main__":
    sys.exit(main())
