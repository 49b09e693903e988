"""Base datasets: where images come from, their digests, and reading them row by row."""
