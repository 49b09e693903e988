"""What training in several processes adds: each learns from its part of a batch, as if one had learnt from all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

from featuregen.errors import UserError
from featuregen.ranks import Ranks
from featuregen.runtime import RowRandom


def check_shares(batch: int, ranks: Ranks, title: str) -> None:
    """Equal parts, so that the mean of the parts' gradients is the gradient of the whole."""
    if batch % ranks.count:
        fitting = max(batch // ranks.count, 1) * ranks.count
        raise UserError(
            f"{title}: batches of {batch} images do not fall into {ranks.count} equal parts, one for each process; set "
            f"batch_size to a multiple of {ranks.count}, such as {fitting}, or start another number of processes."
        )


def agree(epochs: int, ranks: Ranks, title: str) -> None:
    """Processes on machines that do not see the same files would learn on from different epochs."""
    if (first := ranks.told(epochs)) != epochs:
        raise UserError(
            f"{title}: process {ranks.number} finds {epochs} epochs to go on from and the first one {first}; give all "
            "of them one --out, in a folder that they share."
        )


def own_seed(seed: int, ranks: Ranks) -> int:
    """For what is drawn anew in every process, such as which units drop out."""
    return seed if ranks.first else int(RowRandom(seed, "process").integers([ranks.number], 2**63)[0])


def reseed(seed: int, epoch: int, ranks: Ranks, device: torch.device) -> None:
    """Several processes begin every epoch anew, since only the first one's state is kept for a training that stops."""
    if ranks.count == 1:
        return
    own = int(RowRandom(seed, f"process {ranks.number} of {ranks.count}").integers([epoch], 2**63)[0])
    torch.default_generator.manual_seed(own)
    if device.type == "cuda":
        torch.cuda.manual_seed(own)


def own_starts(seed: int, ranks: Ranks) -> RowRandom:
    """Where attacks start: two processes that draw alike would have their images wander alike."""
    return RowRandom(seed, f"augment, process {ranks.number} of {ranks.count}")


def shared_statistics(network: nn.Module, ranks: Ranks) -> nn.Module:
    """A twin of the network on the very same tensors whose batch norms see the whole batch, where torch has such.

    On a CPU it has none: there each process normalises by its own part.
    """
    tensors = list(chain(network.parameters(), network.buffers()))
    if ranks.count == 1 or tensors[0].device.type != "cuda":
        return network
    return twin(network)


def twin(network: nn.Module) -> nn.Module:
    tensors = chain(network.parameters(), network.buffers())
    copied = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
    return convert(copied)


def average_learnt(network: nn.Module, ranks: Ranks) -> None:
    """Gradients, and the running statistics of batch norms that saw their own part alone."""
    if ranks.count > 1:
        gradients = (weight.grad for weight in network.parameters() if weight.grad is not None)
        ranks.average([*gradients, *_statistics(network)])


def _statistics(network: nn.Module) -> list[Tensor]:
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    pairs = ((norm.running_mean, norm.running_var) for norm in norms)
    return [tensor for tensor in chain.from_iterable(pairs) if tensor is not None]
