"""One block of a transformer: attention, a feed-forward layer, norms.

Shapes: b batch, t time, w width, h heads, f features of a head. All functions
take a padding mask `[b, t]`, False for padding. Padded positions may hold any
values: they influence no statistic, no attention and no other position.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from normjax.linen import RMSNorm

# Where the norm is placed around a sub-layer f.
PLACEMENTS = {
  "pre": "x + f(norm(x)), with a norm at the end",
  "post": "norm(x + f(x))",
  "sandwich": "x + norm(f(norm(x))), with a norm at the end",
  "peri": "as sandwich, with a norm on the embedding too",
  "none": "x + f(x)",
}

# Called as norm(train=..., dtype=...), returns a module(x, mask=...).
NormFactory = Callable[..., nn.Module]


class TransformerBlock(nn.Module):
  """Self-attention, then a feed-forward layer, each added to its input.

  Attributes:
    norm: Makes the norm, such as
      `functools.partial(normjax.linen.make_norm, "ln")`. With `causal` it must
      not average over time, or it would see the future.
    placement: One of `PLACEMENTS`.
    heads: Number of attention heads; they share the width.
    causal: Whether a position sees only itself and earlier positions.
    qk_norm: Whether queries and keys are normalized (RMS over each head, with
      gain). This bounds the attention logits for any kernels:
      Henry et al., 2020, https://arxiv.org/abs/2010.04245; Dehghani et al.,
      2023, https://arxiv.org/abs/2302.05442, section 2.
    rotary: Whether queries and keys are rotated by their position: Su et al.,
      2021, https://arxiv.org/abs/2104.09864.
    dropout: Dropout rate of each sub-layer's output.
    residual_scale: Standard deviation of the two kernels that write into the
      residual stream, relative to the other kernels.
    fan: The variance of a kernel is one over this: "fan_in", the number of its
      inputs, or "fan_avg", the mean number of inputs and outputs.
    dtype: Dtype of the computation; parameters are float32.
  """

  norm: NormFactory
  placement: str = "pre"
  heads: int = 4
  causal: bool = True
  qk_norm: bool = False
  rotary: bool = True
  dropout: float = 0.0
  residual_scale: float = 1.0
  fan: Literal["fan_in", "fan_avg"] = "fan_in"
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: jax.Array, *, mask: jax.Array | None = None, train: bool
  ) -> jax.Array:
    """Returns `[b, t, w]` for `x` of that shape and a mask `[b, t]`."""
    x = self._add(x, self._attention, mask, train)
    return self._add(x, self._feed_forward, mask, train)

  def _add(
    self,
    x: jax.Array,
    sublayer: Callable[..., jax.Array],
    mask: jax.Array | None,
    train: bool,
  ) -> jax.Array:
    """Adds a sub-layer to its input, with norms according to the placement."""
    norm = functools.partial(normalized, self, mask=mask, train=train)
    y = x if self.placement in ("post", "none") else norm(x)
    y = sublayer(y, mask)
    if self.placement in ("sandwich", "peri"):
      y = norm(y)
    x += nn.Dropout(self.dropout, deterministic=not train)(y)
    return norm(x) if self.placement == "post" else x

  def _attention(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    batch, time, width = x.shape
    if width % self.heads:
      raise ValueError(
        f"A width of {width} cannot be shared by {self.heads} heads; choose a"
        " multiple of the heads."
      )
    # One matrix product for all three, whose kernels are parts of one kernel.
    projected = self._dense(3 * width, "query_key_value")(x)
    query, key, value = (
      part.reshape(batch, time, self.heads, -1)
      for part in jnp.split(projected, 3, axis=-1)
    )
    if self.qk_norm:
      query = RMSNorm(dtype=self.dtype, name="query_norm")(query)
      key = RMSNorm(dtype=self.dtype, name="key_norm")(key)
    if self.rotary:
      query, key = rotated(query), rotated(key)
    if self.is_mutable_collection("diagnostics") and not self.is_initializing():
      self.sow(
        "diagnostics",
        "max_logit",
        _largest_logit(query, key, mask, self.causal),
        reduce_fn=lambda _, new: new,
      )
    attended = jax.nn.dot_product_attention(
      query,
      key,
      value,
      mask=None if mask is None else mask[:, None, None, :],
      is_causal=self.causal,
    )
    attended = attended.reshape(batch, time, width)
    return self._dense(width, "attention_out", self.residual_scale)(attended)

  def _feed_forward(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    del mask
    width = x.shape[-1]
    hidden = nn.relu(self._dense(4 * width, "feed_forward_in")(x))
    return self._dense(width, "feed_forward_out", self.residual_scale)(hidden)

  def _dense(self, features: int, name: str, scale: float = 1.0) -> nn.Dense:
    init = nn.initializers.variance_scaling(
      scale**2, self.fan, "truncated_normal"
    )
    return nn.Dense(features, kernel_init=init, dtype=self.dtype, name=name)


def rotated(x: jax.Array) -> jax.Array:
  """Rotates pairs of features `[b, t, h, f]` by angles that grow with time.

  The product of a rotated query and a rotated key depends only on the
  difference of their positions. Feature i is paired with feature i + f / 2.

  Raises:
    ValueError: The number of features is odd.
  """
  time, features = x.shape[1], x.shape[-1]
  if features % 2:
    raise ValueError(
      f"Rotary positions need an even number of features in a head, got"
      f" {features}; choose another width or number of heads."
    )
  frequency = 1e4 ** -(jnp.arange(features // 2) / (features // 2))
  angle = jnp.arange(time, dtype=jnp.float32)[:, None] * frequency[None]
  cos, sin = (
    f(angle)[None, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin)
  )
  first, second = jnp.split(x, 2, axis=-1)
  return jnp.concatenate(
    [first * cos - second * sin, first * sin + second * cos], axis=-1
  )


def normalized(
  model: Any, x: jax.Array, *, mask: jax.Array | None, train: bool
) -> jax.Array:
  """Applies the norm of a model to `[b, t, w]` with a mask `[b, t]`."""
  norm = model.norm(train=train, dtype=model.dtype)
  return norm(x, mask=None if mask is None else mask[..., None])


def _largest_logit(
  query: jax.Array, key: jax.Array, mask: jax.Array | None, causal: bool
) -> jax.Array:
  """Returns the largest absolute logit of the softmax, a scalar."""
  logits = jnp.einsum("bthf,bshf->bhts", query, key) / math.sqrt(
    query.shape[-1]
  )
  seen = jnp.ones(logits.shape, bool)
  if causal:
    seen &= jnp.tri(query.shape[1], dtype=bool)[None, None]
  if mask is not None:
    seen &= mask[:, None, :, None] & mask[:, None, None, :]
  return jnp.max(jnp.abs(logits), where=seen, initial=0)
