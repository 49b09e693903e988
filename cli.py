"""`python cli.py …` in a clone: the same as `python -m featuregen …`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("featuregen", run_name="__main__")
