"""3x3 convolutions of a frozen net by Winograd's F(4x4, 3x3): a quarter of the multiplications, for CPUs.

The gradient with respect to the input is again such a convolution, with the kernel flipped; there is no gradient
with respect to the weights, since the network is frozen.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from featuregen.runtime.console import log

# Not -ffast-math: linked into a library, it makes the whole process flush small numbers to zero.
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")


@functools.cache
def load_kernels(source: Path) -> ctypes.CDLL | None:
    """The compiled kernels; None, after a note in the log, where this machine cannot compile them."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        log("note: no C compiler here, so convolutions use torch, which is slower; install gcc")
        return None
    try:
        return ctypes.CDLL(str(_compile(source, compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        log(f"note: {compiler} cannot compile {source.name}, so convolutions use torch: {reason.strip()}")
        return None


def _compile(source: Path, compiler: str) -> Path:
    key = hashlib.sha256(b"\0".join([source.read_bytes(), compiler.encode(), " ".join(_FLAGS).encode(), _processor()]))
    library = _cache_folder() / f"{source.stem}-{key.hexdigest()[:16]}.so"
    if not library.exists():
        # Compiled in a temporary folder and renamed, since several processes may do so at once.
        with tempfile.TemporaryDirectory(dir=library.parent) as temporary:
            compiled = Path(temporary) / library.name
            command = [compiler, *_FLAGS, str(source), "-o", str(compiled)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
            compiled.replace(library)
    return library


def _cache_folder() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # A relative path would be one in the current folder, which may be somebody else's.
        folder = (home if home.is_absolute() else Path.home() / ".cache") / "featuregen"
    except RuntimeError:
        raise OSError("this user has no home folder to keep it in") from None
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processor() -> bytes:
    """The processor that -march=native means: machines with different ones may share a home folder."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return f"{platform.machine()} {platform.processor()}".encode()
    lines = cpuinfo.read_bytes().splitlines()
    return b"\n".join(sorted({line for line in lines if line.startswith((b"model name", b"flags", b"Features"))}))


_SOURCE = Path(__file__).with_name("winograd.c")
_LANES = 16
# With fewer channels the transforms cost what the products save.
_MIN_CHANNELS = 32
_TILE = 4
# Points 0, 1, -1, 2, -2 and infinity.
_TO_POINTS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
# Patches that stay in the cache between a transform and the product, but enough of them for BLAS.
_PATCH_BYTES = 4 * 2**20
_MIN_TILES = 128


def available() -> bool:
    return load_kernels(_SOURCE) is not None


def supports(conv: nn.Module) -> bool:
    """3x3, stride 1, one pixel of zeros around, and channels in whole vectors."""
    return (
        isinstance(conv, nn.Conv2d)
        and (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and (conv.groups, conv.padding_mode) == (1, "zeros")
        and conv.in_channels % _LANES == conv.out_channels % _LANES == 0
        and min(conv.in_channels, conv.out_channels) >= _MIN_CHANNELS
    )


class WinogradConv(nn.Module):
    """Replaces a convolution that `supports` accepts."""

    forward_kernel: Tensor
    backward_kernel: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        points = (36, conv.in_channels, conv.out_channels)
        self.register_buffer("forward_kernel", torch.empty(points))
        self.register_buffer("backward_kernel", torch.empty(points).transpose(1, 2).contiguous())
        self.register_buffer("bias", torch.zeros(conv.out_channels))
        self.copy_weights(conv.weight.detach(), None if conv.bias is None else conv.bias.detach())

    def copy_weights(self, weight: Tensor, bias: Tensor | None) -> None:
        """Transform and copy the weight and bias of a convolution."""
        to_points = torch.tensor(_TO_POINTS)
        to_points = torch.kron(to_points, to_points)
        kernels = ((self.forward_kernel, weight.transpose(0, 1)), (self.backward_kernel, weight.flip(2, 3)))
        for buffer, kernel in kernels:
            torch.mm(to_points, kernel.permute(2, 3, 0, 1).reshape(9, -1), out=buffer.view(36, -1))
        if bias is not None:
            self.bias.copy_(bias)

    # Its kernels are compiled already.
    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch gives it no type
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = _Convolution.apply(x, self.forward_kernel, self.backward_kernel, self.bias)
        return output


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward_kernel: Tensor, backward_kernel: Tensor, bias: Tensor) -> Tensor:
        ctx.backward_kernel = backward_kernel
        return _convolve(x, forward_kernel, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _convolve(gradient, ctx.backward_kernel, None), None, None, None


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """`kernel` is (36, channels in, channels out)."""
    # Whoever chose this convolution has asked `available`, which loaded it.
    library = cast(ctypes.CDLL, load_kernels(_SOURCE))
    x = x.contiguous(memory_format=torch.channels_last)
    (count, channels, height, width), out = x.shape, kernel.shape[2]
    y = torch.empty((count, out, height, width), memory_format=torch.channels_last)
    per_image = -(-height // _TILE) * -(-width // _TILE)
    tiles = max(_MIN_TILES, _PATCH_BYTES // (36 * 4 * max(channels, out)))
    chunk = max(1, min(count, tiles // per_image))
    patches, products = torch.empty(chunk * per_image, 36, channels), torch.empty(36, chunk * per_image, out)
    threads = ctypes.c_int(torch.get_num_threads())
    for first in range(0, count, chunk):
        images, result = x[first : first + chunk], y[first : first + chunk]
        size = [ctypes.c_long(side) for side in (len(images), height, width)]
        used = len(images) * per_image
        if used < len(patches):
            patches, products = patches[:used], torch.empty(36, used, out)
        library.to_patches(_address(images), _address(patches), *size, ctypes.c_long(channels), threads)
        torch.bmm(patches.transpose(0, 1), kernel, out=products)
        added = None if bias is None else _address(bias)
        library.to_images(_address(products), added, _address(result), *size, ctypes.c_long(out), threads)
    return y


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
