"""Domain-specific batch normalization."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from normjax import functional
from normjax.descriptions.norm import Parameter, Shape, description
from normjax.descriptions.rows import RowBatchNorm


@description
class DomainBatchNorm(RowBatchNorm):
  """Batch norm with running statistics for each domain.

  The function is `normjax.domain_batch_norm`, https://arxiv.org/abs/1603.04779.

  Attributes:
    domains: Number of domains.
    domain_parameters: Whether each domain also has a gain and a bias of its
      own, https://arxiv.org/abs/1906.03950. They are `[domains, channels]`.
    use_running_average, axis, momentum, epsilon, dtype, param_dtype, use_bias,
      use_scale, bias_init, scale_init, axis_name, axis_index_groups,
      use_fast_variance, force_float32_reductions, scale_offset,
      running_var_ddof, debias: As in `BatchNorm`.

  Statistics are those of `BatchNorm`, but `[domains, channels]`.
  """

  row_argument = "domain"
  rows_field = "domains"
  domains: int = dataclasses.field(kw_only=True)
  domain_parameters: bool = dataclasses.field(default=False, kw_only=True)

  def function(self) -> Callable[..., tuple[jax.Array, Any]]:
    """Returns `normjax.domain_batch_norm`."""
    return functional.domain_batch_norm

  def parameters(self, features: Shape) -> dict[str, Parameter]:
    """Returns gain and bias, of each domain or for all."""
    rows = (self.rows(),) if self.domain_parameters else ()
    return super().parameters((*rows, *features))
