"""What an attack found, measured on the very images it gives back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from featuregen.attacks.criterion import Criterion
from featuregen.compute import TINY, Ball, image_norms

# Of the radius: more than a norm in float64 is off by.
_INWARDS = 1 - 1e-12


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, image by image: numbers are fp32, and are those of `images` as they stand here.

    `success` says whether the goal is reached and `already` whether the image reached it untouched; `before` and
    `after` are the classes the model sees, with its confidence in each. `l0` counts pixels, whatever their channels.
    """

    images: Tensor
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
    def rate(self) -> float:
        """The share of successes among the images whose goal was not reached already (nan where there is none)."""
        return self.success[~self.initially_met].float().mean().item()


@torch.no_grad()
def measure_result(model: nn.Module, images: Tensor, found: Tensor, goal: Criterion, batch_size: int) -> AttackResult:
    def seen(x: Tensor) -> Tensor:
        return torch.cat([model(part).float() for part in torch.split(x, batch_size)])

    first, last, change = seen(images), seen(found), (found - images).float().flatten(1)
    sure_before, sure_after = first.softmax(1).max(1), last.softmax(1).max(1)
    return AttackResult(
        images=found,
        success=goal.reached(last),
        initially_met=goal.reached(first),
        before=first.argmax(1),
        after=last.argmax(1),
        confidence_before=sure_before.values,
        confidence_after=sure_after.values,
        l0=(found != images).any(1).flatten(1).sum(1),
        l1=change.abs().sum(1),
        l2=change.norm(dim=1),
        linf=change.abs().amax(1),
    )


def clip_exact(x: Tensor, ball: Ball) -> Tensor:
    """Inside the ball in exact arithmetic too, where the rounding of pixels has thrown some out by a last bit."""
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
