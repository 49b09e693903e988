"""What an attack found, measured on the very images it returns."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from html import escape

import torch
from PIL import Image
from torch import Tensor, nn

from featuregen.attacks.criterion import Criterion
from featuregen.compute.optimize import TINY, Ball, image_norms

# Of the radius: more than a norm in float64 is off by.
_INWARDS = 1 - 1e-12
# Pairs of images that a notebook shows, and the side of each in pixels of the screen.
_SHOWN, _SIDE = 8, 72


@dataclass(frozen=True, eq=False, repr=False)
class AttackResult:
    """What an attack found, image by image; all numbers are fp32 and those of `images` as they stand here.

    In a notebook it shows its success rate, its norms and up to eight images before and after.

    Attributes:
        images: The adversarial images, (N, C, H, W) in [0, 1].
        originals: The images that were attacked (not a copy).
        success: Whether the criterion is met by the adversarial image.
        initially_met: Whether the original met it already.
        before: The class the model predicts for the original.
        after: The class it predicts for the adversarial image.
        confidence_before: Its softmax probability of `before`.
        confidence_after: Its softmax probability of `after`.
        l0: How many pixels changed, whatever their channels.
        l1: The L1 norm of the perturbation.
        l2: Its L2 norm.
        linf: Its Linf norm.

    Example:
        >>> import torch, featuregen as fg
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
        >>> images = torch.full((2, 1, 8, 8), 0.5)
        >>> fg.attack(model, images, model(images).argmax(1), "fgsm", norm="linf", eps=0.25)
        AttackResult(2 images, success rate 1.00, median L2 2.00, median Linf 0.25)
    """

    images: Tensor
    originals: Tensor
    success: Tensor
    initially_met: Tensor
    before: Tensor
    after: Tensor
    confidence_before: Tensor
    confidence_after: Tensor
    l0: Tensor
    l1: Tensor
    l2: Tensor
    linf: Tensor

    @property
    def success_rate(self) -> float:
        """The share of successes among images that did not meet the criterion already; nan where there are none."""
        return self.success[~self.initially_met].float().mean().item()

    @property
    def _won(self) -> Tensor:
        return self.success & ~self.initially_met

    def __repr__(self) -> str:
        middle = "".join(f", median {name} {value:.2f}" for name, value in self._medians() if name in ("L2", "Linf"))
        return f"AttackResult({len(self.images)} images, success rate {self.success_rate:.2f}{middle})"

    def _medians(self) -> list[tuple[str, float]]:
        """Of the perturbations that succeeded."""
        norms = {"L0": self.l0, "L1": self.l1, "L2": self.l2, "Linf": self.linf}
        return [(name, values[self._won].float().median().item()) for name, values in norms.items() if self._won.any()]

    def _repr_html_(self) -> str:
        rate = "none to attack" if math.isnan(self.success_rate) else f"{self.success_rate:.1%}"
        facts = [("images", f"{len(self.images)}"), ("criterion met before", f"{int(self.initially_met.sum())}")]
        facts += [("success rate", rate), *((f"median {name}", f"{value:.4g}") for name, value in self._medians())]
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
        # Successes first.
        rows = self._won.logical_not().byte().argsort(stable=True)[:_SHOWN].tolist()
        pairs = "".join(
            f"<figure style='display:inline-block;margin:4px'>{_picture(self.originals[row])}"
            f"{_picture(self.images[row])}<figcaption>class {int(self.before[row])} → {int(self.after[row])}"
            "</figcaption></figure>"
            for row in rows
        )
        return f"<table>{cells}</table><div>{pairs}</div>"


def _picture(image: Tensor) -> str:
    """An image tag with the pixels in it; what is not RGB is shown as the mean of its channels."""
    pixels = (image.detach().float().cpu() * 255).round().to(torch.uint8)
    colour = pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels.float().mean(0).round().to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(colour.numpy()).save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f"<img width={_SIDE} style='image-rendering:pixelated' src='data:image/png;base64,{data}'>"


@torch.no_grad()
def measure_result(
    model: nn.Module, images: Tensor, adversarial: Tensor, criterion: Criterion, batch_size: int
) -> AttackResult:
    """The result of an attack, as the model itself sees the images before and after."""

    def logits_of(x: Tensor) -> Tensor:
        return torch.cat([model(batch).float() for batch in torch.split(x, batch_size)])

    first, last, change = logits_of(images), logits_of(adversarial), (adversarial - images).float().flatten(1)
    return AttackResult(
        images=adversarial,
        originals=images,
        success=criterion.is_met(last),
        initially_met=criterion.is_met(first),
        before=first.argmax(1),
        after=last.argmax(1),
        confidence_before=first.softmax(1).max(1).values,
        confidence_after=last.softmax(1).max(1).values,
        l0=(adversarial != images).any(1).flatten(1).sum(1),
        l1=change.abs().sum(1),
        l2=change.norm(dim=1),
        linf=change.abs().amax(1),
    )


def clip_exact(x: Tensor, ball: Ball) -> Tensor:
    """Inside the ball in exact arithmetic too: rounding may have put a pixel outside by a last bit."""
    centre = ball.centre.double()
    offset = x.double() - centre
    if ball.norm == "linf":
        outside, allowed = offset.abs() > ball.eps, offset.clamp(-ball.eps, ball.eps)
    else:
        norms = image_norms(offset)
        outside, allowed = norms > ball.eps, offset * (ball.eps / norms.clamp_min(TINY) * _INWARDS)
    limited = (centre + allowed).to(x.dtype)
    # Rounded towards the centre, no pixel goes further than allowed, however small the ball.
    further = (limited.double() - centre).abs() > allowed.abs()
    limited = torch.where(further, torch.nextafter(limited, ball.centre), limited)
    return torch.where(outside, limited, x)
