"""Synthesis of datasets: kinds, plans, and the optimisation of pixels."""
