"""`python cli.py …` in a clone; installed, the command is `featuregen`."""

from featuregen.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
