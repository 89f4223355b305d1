"""The example of the page "Your own normalizer"."""

from torch import Tensor

from normcore import Norm, fused_norm


class CenteredNorm(Norm):
    r"""InstanceNorm with one variance for all channels of a sample.

    .. math:: y = \gamma_c \frac{x - \mu_{nc}}
        {\sqrt{E_c[\sigma^2_{nc}] + \epsilon}} + \beta_c
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (N, C, *spatial)."""
        self._check_input(x)
        if x.dim() == 2:
            raise ValueError(
                "CenteredNorm takes (N, C, *spatial) with spatial axes, "
                f"got shape {tuple(x.shape)}"
            )
        return fused_norm(x, self._mix, self.weight, self.bias)[0]

    def _mix(
        self,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        shared = var.mean(dim=1, keepdim=True)
        return mean, *self._affine_tables(shared, weight, bias)
