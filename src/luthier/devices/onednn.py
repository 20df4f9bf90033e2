"""Memory that oneDNN takes inside of an operation on a CPU, where no tensor shows it."""

from __future__ import annotations

from typing import Any

import torch

_aten = torch.ops.aten
_BLOCK = 16  # channels, with AVX-512


def copied_bytes(func: Any, args: Any, returned: Any) -> int:
    """Return the bytes of the copies that an operation makes and frees, beside what it returns.

    By what torch 2.13 was seen to allocate on x86-64 with AVX-512, with one thread and two, in
    fp32 and bf16. A convolution copies its operands into a blocked layout and its result back; of
    channels-last ones only the weights, a few times. A batched product in bfloat16 copies an
    operand that is expanded (``is_mkldnn_optimized_format`` in ATen). What remains is not known
    here: tiles of products in bfloat16, up to some hundred KiB; kernels of images with few
    channels, some of their weights' size.

    Args:
        func: an ATen operator.
        args: of its call, by position.
        returned: by it.
    """
    if not (torch.backends.mkldnn.enabled and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return 0
    if func is _aten.convolution.default:
        return _of_images(args[0], args[1], returned)
    if func is _aten.convolution_backward.default:
        grad, image, weight, wanted = args[0], args[1], args[2], args[10]
        of_image = _of_images(grad, weight, image) if wanted[0] else 0
        return max(of_image, _of_weight(grad, image, weight) if wanted[1] else 0)
    if func in (_aten.bmm.default, _aten.baddbmm.default) and returned.dtype == torch.bfloat16:
        return sum(_bytes(operand) for operand in args[-2:] if not _is_dense(operand))
    return 0


def _of_images(image: torch.Tensor, weight: torch.Tensor, result: torch.Tensor) -> int:
    if _channels_first(image, weight):
        # The copies of the operands are freed before the result is copied back.
        return max(_bytes(image) + _bytes(weight), _bytes(result))
    return (1 + _turned(weight)) * _bytes(weight)


def _of_weight(grad: torch.Tensor, image: torch.Tensor, weight: torch.Tensor) -> int:
    if _channels_first(grad, image, weight):
        return max(_bytes(grad) + _bytes(image), _bytes(weight))
    widest = max(weight.shape[2:])
    if _depthwise(weight) and (widest > 3 or min(image.shape[2:]) < widest):
        # Both sides of a group, which is one channel, are padded to a block; summed up in fp32.
        wide = 4 if weight.dtype == torch.float32 else 4 + weight.element_size()
        return _BLOCK * _BLOCK * weight.numel() * wide
    return (2 + _turned(weight)) * _bytes(weight)


def _channels_first(*tensors: torch.Tensor) -> bool:
    return all(tensor.is_contiguous() for tensor in tensors)


def _depthwise(weight: torch.Tensor) -> bool:
    return weight.shape[1] == 1


def _turned(weight: torch.Tensor) -> bool:
    """Tell whether weights are first brought into the channels-last layout of the images."""
    last = weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last)
    return not last and not _depthwise(weight)


def _is_dense(matrices: torch.Tensor) -> bool:
    return matrices.is_contiguous() or matrices.transpose(-1, -2).is_contiguous()


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
