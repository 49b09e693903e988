"""Data-parallel training: every rank learns from its part of a batch, with the gradient of the whole batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from featuregen.errors import UserError
from featuregen.runtime.distributed import DistInfo, connection_errors_as_user_errors
from featuregen.runtime.rng import RowRandom


def check_equal_shares(batch: int, dist: DistInfo, title: str) -> None:
    """Equal parts, so that the mean of the parts' gradients is the gradient of the whole batch."""
    if batch % dist.world_size:
        fitting = max(batch // dist.world_size, 1) * dist.world_size
        raise UserError(
            f"{title}: batches of {batch} images do not fall into {dist.world_size} equal parts, one for each process; "
            f"set batch_size to a multiple of {dist.world_size}, such as {fitting}, or start "
            "another number of processes."
        )


def check_same_epoch(epochs: int, dist: DistInfo, title: str) -> None:
    """Ranks on machines that do not share their files would resume from different epochs."""
    if (first := dist.broadcast_object(epochs)) != epochs:
        raise UserError(
            f"{title}: process {dist.rank} finds {epochs} epochs to resume from and process 0 finds {first}; give all "
            "of them one --out, in a folder that they share."
        )


def rank_seed(seed: int, dist: DistInfo) -> int:
    """The seed of what every rank draws anew, such as dropout."""
    return seed if dist.is_main else int(RowRandom(seed, "process").integers([dist.rank], 2**63)[0])


def reseed_rank(seed: int, epoch: int, dist: DistInfo, device: torch.device) -> None:
    """With several ranks every epoch begins from a seed, since only rank 0 saves the state of its generators."""
    if dist.world_size == 1:
        return
    epoch_seed = int(RowRandom(seed, f"process {dist.rank} of {dist.world_size}").integers([epoch], 2**63)[0])
    torch.default_generator.manual_seed(epoch_seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(epoch_seed)


def rank_rng(seed: int, dist: DistInfo) -> RowRandom:
    """Random starts of attacks, which must differ between ranks."""
    return RowRandom(seed, f"augment, process {dist.rank} of {dist.world_size}")


def data_parallel(network: nn.Module, dist: DistInfo) -> nn.Module:
    """The network in DDP, which also copies the weights of rank 0 to all; in a single process the network itself.

    On GPUs batch norm normalises by the whole batch. Torch has no such layer for CPUs: there every rank normalises by
    its part, and `average_batch_norms` keeps the running statistics equal.
    """
    if dist.world_size == 1:
        return network
    if next(network.parameters()).is_cuda:
        network = sync_bn_copy(network)
    # A static graph also allows parameters that the forward pass does not use.
    return DistributedDataParallel(network, static_graph=True)


def sync_bn_copy(network: nn.Module) -> nn.Module:
    """A copy with SyncBatchNorm layers on the very same tensors, so that the network itself learns what it learns."""
    tensors = chain(network.parameters(), network.buffers())
    copied = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
    return convert(copied)


def backward(loss: Tensor) -> None:
    """Gradients of the loss, which DDP averages over the ranks."""
    with connection_errors_as_user_errors():
        torch.autograd.backward(loss)


def average_batch_norms(network: nn.Module, dist: DistInfo) -> None:
    """Average the running statistics of batch norms that saw only their rank's part of the batch."""
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    statistics = chain.from_iterable((norm.running_mean, norm.running_var) for norm in norms)
    dist.all_reduce_mean([tensor for tensor in statistics if isinstance(tensor, Tensor)])
