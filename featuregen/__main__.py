"""`python -m featuregen …`: the command line."""

from featuregen.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
