"""MLP heads on a feature vector: reward, termination, actor and critic."""

from __future__ import annotations

from torch import Tensor, nn

from drama.ops.rms_norm import RMSNormSiLU


class MLP(nn.Module):
    """``layers`` hidden layers of ``units`` (linear, RMSNorm, SiLU) and a linear output.

    Args:
        inputs: Size of the input.
        outputs: Size of the output.
        layers: Hidden layers.
        units: Width of each.
        zero_init: Initialise the output layer with zeros.
    """

    def __init__(
        self, inputs: int, outputs: int, *, layers: int, units: int, zero_init: bool = False
    ) -> None:
        super().__init__()
        hidden: list[nn.Module] = []
        for _ in range(layers):
            linear = nn.Linear(inputs, units, bias=False)
            hidden += [linear, RMSNormSiLU(units)]
            inputs = units
        self.hidden = nn.Sequential(*hidden)
        self.out = nn.Linear(inputs, outputs)
        if zero_init:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., inputs)`` to ``(..., outputs)``."""
        y: Tensor = self.out(self.hidden(x))
        return y
