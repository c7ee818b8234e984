"""How fast training runs, and how fast this machine could."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median time of one call, after one to warm up."""
    times: list[float] = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def gemm_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Return FLOP/s of the reference transformer's own products: 4096 rows, 768 to 1536."""
    rows, inner, outer = 16 * 256, 768, 1536
    a = torch.randn(rows, inner, dtype=dtype, device=device)
    weight = torch.randn(outer, inner, dtype=dtype, device=device)
    return 2 * rows * inner * outer / seconds(lambda: a @ weight.T, device, 5)


def training_flops(loss: Callable[[], Tensor]) -> int:
    """Return the operations of computing a loss and its gradients: two for each multiply-add."""
    # The counter knows no formula for the fused attention of CPUs.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss().backward()
    return counter.get_total_flops()
