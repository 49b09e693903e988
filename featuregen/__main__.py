"""`python -m featuregen`."""

from featuregen.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
