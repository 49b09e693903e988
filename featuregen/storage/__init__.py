"""The HDF5 file of a dataset: writing, reading, checking, merging, comparing."""
