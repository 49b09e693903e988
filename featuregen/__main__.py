"""`python -m featuregen …`: the command line."""

import os
import sys
from contextlib import suppress

if __name__ == "__main__":
    # `python -m` imports from the current folder first, and a received folder may hold a numpy.py.
    with suppress(OSError):
        if sys.path and sys.path[0] == os.getcwd() != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
            del sys.path[0]
    from featuregen.cli import main

    raise SystemExit(main())
