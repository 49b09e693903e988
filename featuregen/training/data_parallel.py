"""What training in several processes adds: each learns from its part of a batch, as if one had learnt from all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

from featuregen.errors import UserError
from featuregen.runtime import DistInfo, RowRandom


def check_equal_shares(batch: int, dist: DistInfo, title: str) -> None:
    """Equal parts, so that the mean of the parts' gradients is the gradient of the whole."""
    if batch % dist.world_size:
        fitting = max(batch // dist.world_size, 1) * dist.world_size
        raise UserError(
            f"{title}: batches of {batch} images do not fall into {dist.world_size} equal parts, one for each process; "
            f"set batch_size to a multiple of {dist.world_size}, such as {fitting}, or start "
            "another number of processes."
        )


def check_same_epoch(epochs: int, dist: DistInfo, title: str) -> None:
    """Processes on machines that do not see the same files would learn on from different epochs."""
    if (first := dist.broadcast_object(epochs)) != epochs:
        raise UserError(
            f"{title}: process {dist.rank} finds {epochs} epochs to go on from and the first one {first}; give all "
            "of them one --out, in a folder that they share."
        )


def rank_seed(seed: int, dist: DistInfo) -> int:
    """For what is drawn anew in every process, such as which units drop out."""
    return seed if dist.is_main else int(RowRandom(seed, "process").integers([dist.rank], 2**63)[0])


def reseed_rank(seed: int, epoch: int, dist: DistInfo, device: torch.device) -> None:
    """Several processes begin every epoch anew, since only the first one's state is kept for a training that stops."""
    if dist.world_size == 1:
        return
    own = int(RowRandom(seed, f"process {dist.rank} of {dist.world_size}").integers([epoch], 2**63)[0])
    torch.default_generator.manual_seed(own)
    if device.type == "cuda":
        torch.cuda.manual_seed(own)


def rank_rng(seed: int, dist: DistInfo) -> RowRandom:
    """Where attacks start: two processes that draw alike would have their images wander alike."""
    return RowRandom(seed, f"augment, process {dist.rank} of {dist.world_size}")


def sync_batch_norm(network: nn.Module, dist: DistInfo) -> nn.Module:
    """A twin of the network on the very same tensors whose batch norms see the whole batch, where torch has such.

    On a CPU it has none: there each process normalises by its own part.
    """
    tensors = list(chain(network.parameters(), network.buffers()))
    if dist.world_size == 1 or tensors[0].device.type != "cuda":
        return network
    return sync_bn_copy(network)


def sync_bn_copy(network: nn.Module) -> nn.Module:
    tensors = chain(network.parameters(), network.buffers())
    copied = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
    return convert(copied)


def all_reduce_grads(network: nn.Module, dist: DistInfo) -> None:
    """Gradients, and the running statistics of batch norms that saw their own part alone."""
    if dist.world_size > 1:
        gradients = (weight.grad for weight in network.parameters() if weight.grad is not None)
        dist.all_reduce_mean([*gradients, *_statistics(network)])


def _statistics(network: nn.Module) -> list[Tensor]:
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    pairs = ((norm.running_mean, norm.running_var) for norm in norms)
    return [tensor for tensor in chain.from_iterable(pairs) if tensor is not None]
