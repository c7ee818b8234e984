"""Sample pictures of training."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

COLUMNS = 12


def sheet(
    rows: Sequence[Float[Tensor, "batch 3 height width"]],
) -> UInt8[Tensor, "sheet_height sheet_width 3"]:
    """Stack batches of images in [-1, 1] as rows, the first ``COLUMNS`` images of each."""
    lines = [torch.cat(list(row[:COLUMNS]), dim=2) for row in rows]
    picture = torch.cat(lines, dim=1).clamp(-1, 1)
    return ((picture + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous()
