"""`python -m featuregen`."""

import sys

from featuregen.cli import main

if __name__ == "__main__":
    sys.exit(main())
