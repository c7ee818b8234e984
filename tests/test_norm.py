"""Group norm with a gradient of its own."""

import pytest
import torch
from torch import Tensor

from maskweave.tokenizer.norm import GroupNorm


def gradients(norm: torch.nn.Module, x: Tensor, scale: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    norm.zero_grad()
    y = norm(x)
    (y * scale).sum().backward()
    found = [y.detach(), x.grad, *(p.grad for p in norm.parameters())]
    return [tensor.float() for tensor in found if tensor is not None]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_against_pytorch(dtype: torch.dtype, tolerance: float, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    norm, reference = GroupNorm(8, 32), torch.nn.GroupNorm(8, 32)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    reference.load_state_dict(norm.state_dict())
    x, scale = (
        torch.randn(3, 32, 12, 10).to(dtype).contiguous(memory_format=layout) for _ in range(2)
    )
    for found, expected in zip(
        gradients(norm, x, scale), gradients(reference, x, scale), strict=True
    ):
        assert (found - expected).norm() <= tolerance * expected.norm()


def test_its_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    norm = GroupNorm(2, 4).double()
    x = torch.randn(2, 4, 3, 3).double().contiguous(memory_format=torch.channels_last)

    def smooth(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    parts = (x, torch.randn(4).double(), torch.randn(4).double())
    assert torch.autograd.gradcheck(smooth, tuple(part.requires_grad_() for part in parts))
