"""Whether a model's robustness may be believed: the checks for masked gradients, as a record and a picture."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from featuregen.masking import sanity
from featuregen.pipeline.attacking import Victims
from featuregen.pipeline.places import check_writable
from featuregen.pipeline.records import Trained, about_model
from featuregen.pipeline.workshop import Workshop
from featuregen.report import sanity_bars
from featuregen.runtime import software
from featuregen.whole import write_whole


def doubt_model(
    shop: Workshop, target: Trained, victims: Victims, options: dict[str, Any], other: Trained | None = None
) -> dict[str, Any]:
    """Always in fp32. What is found on the `other` model is shown to the target as well."""
    check_writable(shop.out)
    verdict = sanity(
        target.model, victims.images, victims.labels,
        other=other.model if other else None,
        seed=shop.config.seed, batch_size=shop.config.evaluation.batch_size,
        machine=replace(shop.machine, precision="fp32"), **options,
    )  # fmt: skip
    found = verdict.to_dict()
    return {
        "format": "featuregen-sanity",
        "version": 1,
        "ok": found["ok"],
        "settings": found["settings"],
        "model": about_model(target),
        **({"origin": about_model(other)} if other else {}),
        "images": {"name": victims.base["name"], "split": victims.base["split"], "count": found["images"]},
        "accuracy": found["accuracy"],
        "tried": found["attacked"],
        "checks": found["checks"],
        "seed": shop.config.seed,
        "software": software(shop.machine),
    }


def write_doubts(results: dict[str, Any], path: Path) -> list[Path]:
    write_whole(path, json.dumps(results, indent=1))
    return [path, sanity_bars(path.with_suffix(".png"), results)]
