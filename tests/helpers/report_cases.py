"""Made-up results for the tests of reports and cards."""

from __future__ import annotations

from typing import Any

CLEAN = {
    "standard": (0.994, 0.589, 0.31),
    "adversarial": (0.978, 0.808, 0.72),
    "robust": (0.992, 0.664, 0.42),
    "nonrobust": (0.99, 0.556, 0.28),
    "robust-noise": (0.962, 0.61, 0.35),
    "nonrobust-noise": (0.95, 0.38, 0.12),
    "rand": (0.869, 0.021, 0.0),
    "det": (0.461, 0.003, 0.0),
}
TITLES = ["D, standard", "D, adversarial", "D_R", "D_NR", "D_R from noise", "D_NR from noise", "D_rand", "D_det"]
JUDGES = ["source model", "robust model", "second standard model", "1-nearest neighbour"]


def make_runs(clean: float, mid: float, strong: float, seeds: int) -> list[dict[str, Any]]:
    shifts = [0.0, -0.02, 0.02, 0.01, -0.01][:seeds]
    runs = []
    for seed, shift in enumerate(shifts):
        moved = [min(1.0, max(0.0, value + shift * (1 - value) * 2)) for value in (clean, mid, strong)]
        runs.append(
            {"seed": seed, "clean": moved[0], "train_accuracy": 1.0, "seconds": 2.1,
             "l2": {"0.25": (moved[0] + moved[1]) / 2, "0.5": moved[1], "1.0": moved[2]},
             "linf": {"0.05": moved[1], "0.1": moved[2] / 2}}
        )  # fmt: skip
    return runs


def make_audit(growth: float) -> list[dict[str, Any]]:
    rows = []
    for eps in (0.75, 1.0, 1.25, 1.5):
        judges = {}
        for j, judge in enumerate(JUDGES):
            stored = min(1.0, growth * eps) if j == 0 else min(0.6, 0.2 * eps**2 * (0.5 + 0.2 * j))
            true = max(0.0, 0.95 - stored)
            judges[judge] = {"true": true, "stored": stored, "neither": 1 - true - stored}
        rows.append({"eps": eps, "rows": 360, "judges": judges})
    return rows


def make_results(seeds: int = 3) -> dict[str, Any]:
    models = [
        {"key": key, "title": title, "runs": make_runs(*values, seeds)}
        for (key, values), title in zip(CLEAN.items(), TITLES, strict=True)
    ]
    datasets = [
        {"kind": kind, "file": f"digits-{kind}.h5", "rows": 1437, "success_rate": 0.97, "objective": 0.1534,
         "norm": 1.2 + i, "content_sha256": f"{i}a7c" * 16, "seconds": 4.2, "steps": 200,
         "norm_name": "l2" if kind in ("rand", "det") else "none", "eps": 1.25 if kind in ("rand", "det") else 0.0}
        for i, kind in enumerate(list(CLEAN)[2:])
    ]  # fmt: skip
    return {
        "format": "featuregen-results",
        "version": 1,
        "config": {"name": "digits", "seed": 0, "evaluation": {"headline": 0.5, "l2": [0.25, 0.5, 1.0]}},
        "base": {"name": "digits", "train_rows": 1437, "test_rows": 360, "train_sha256": "a" * 64,
                 "test_sha256": "b" * 64, "classes": [str(i) for i in range(10)], "image_shape": [1, 8, 8]},
        "software": {"featuregen": "0.1.0", "torch": "2.9.0", "device": "cpu (x86_64)", "precision": "fp32"},
        "models": models,
        "datasets": datasets,
        "honesty": {"det": make_audit(0.7), "rand": make_audit(0.68)},
        "timings": [{"stage": "source, seed 0", "seconds": 2.14}, {"stage": "D_det, 1437 rows", "seconds": 61.0}],
    }  # fmt: skip
