"""How networks are computed: folded and grouped models, Winograd kernels, the pixel optimiser, autotuning."""
