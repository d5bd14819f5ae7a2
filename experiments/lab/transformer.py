"""Transformers: one block, a decoder language model, an encoder classifier.

Shapes: b batch, t time, w width, h heads, v vocabulary. Everything takes a
padding mask `[b, t]`, True where there is something: what is padded influences
no statistic, no attention and no other position, whatever it holds.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from normjax.linen import RMSNorm

# Where the norm stands around a sub-layer f.
PLACEMENTS = {
  "pre": "x + f(norm(x)), with a norm at the end",
  "post": "norm(x + f(x))",
  "sandwich": "x + norm(f(norm(x))), with a norm at the end",
  "peri": "as sandwich, with a norm on the embedding too",
  "none": "x + f(x)",
}

POSITIONS = ("rotary", "learned")

# How kernels start; biases are zero.
KERNEL_INITS = {
  "gpt2": "variance 1 / inputs, and kernels that write into the residual stream"
  " 1/sqrt(2 layers) times as large",
  "lecun": "variance 1 / inputs",
  "xavier": "variance 2 / (inputs + outputs), queries, keys and values being"
  " one kernel",
}

# GPT-2's. Inputs are divided by it, so that blocks start with unit variance.
_EMBEDDING_STD = 0.02
_EMBEDDING_INIT = nn.initializers.normal(_EMBEDDING_STD)

# Called as norm(train=..., dtype=...), returns a module(x, mask=...).
NormFactory = Callable[..., nn.Module]


class TransformerBlock(nn.Module):
  """Self-attention, then a feed-forward layer, each added to its input.

  Attributes:
    norm: Such as `functools.partial(normjax.linen.make_norm, "ln")`. It must
      not average over time where `causal`, or it would see the future.
    placement: One of `PLACEMENTS`.
    heads: Attention heads; they share the width.
    causal: Whether a position sees only itself and earlier ones.
    qk_norm: Whether queries and keys are normalized (RMS over each head, with
      gain), which bounds the attention logits whatever the kernels become:
      Henry et al., 2020, https://arxiv.org/abs/2010.04245; Dehghani et al.,
      2023, https://arxiv.org/abs/2302.05442, section 2.
    rotary: Whether queries and keys are rotated by their position: Su et al.,
      2021, https://arxiv.org/abs/2104.09864.
    dropout: Share of each sub-layer's output that training drops.
    residual_scale: Standard deviation of the two kernels that write into the
      residual stream, relative to that of other kernels.
    fan: The variance of kernels is one over this: "fan_in", their inputs, or
      "fan_avg", the mean of inputs and outputs.
    dtype: Of the computation; parameters are float32.
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
    """Adds a sub-layer to its input, with norms where the placement says."""
    norm = functools.partial(_normalize, self, mask=mask, train=train)
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
    # One product for the three: their kernels are columns of one kernel.
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


class _Stack(nn.Module):
  """Blocks between what embeds the input and what reads the output.

  Attributes:
    norm, placement, heads, causal, qk_norm, dropout, dtype: As in
      `TransformerBlock`.
    layers: Number of blocks.
    width: Features of the residual stream.
    context: The longest input, in positions.
    positions: "rotary", or "learned": a vector per position, added at the
      start.
    kernel_init: One of `KERNEL_INITS`. With "gpt2" the variance of the residual
      stream does not grow with depth: Radford et al., 2019, section 2.3.
      "xavier" is Glorot & Bengio's, 2010, as fairseq has it, the code of many
      papers: its gain of 1/sqrt(2) for queries, keys and values is the variance
      that their stacked kernel has here.
  """

  norm: NormFactory
  placement: str = "pre"
  layers: int = 4
  width: int = 128
  heads: int = 4
  context: int = 64
  positions: str = "rotary"
  qk_norm: bool = False
  dropout: float = 0.0
  kernel_init: str = "gpt2"
  dtype: jax.typing.DTypeLike = jnp.float32

  def _blocks(
    self,
    x: jax.Array,
    mask: jax.Array | None,
    *,
    causal: bool,
    train: bool,
  ) -> jax.Array:
    if self.placement not in PLACEMENTS:
      raise ValueError(
        f"placement must be one of {', '.join(PLACEMENTS)}, got"
        f" {self.placement!r}."
      )
    if self.positions not in POSITIONS:
      raise ValueError(
        f"positions must be one of {', '.join(POSITIONS)}, got"
        f" {self.positions!r}."
      )
    if self.kernel_init not in KERNEL_INITS:
      raise ValueError(
        f"kernel_init must be one of {', '.join(KERNEL_INITS)}, got"
        f" {self.kernel_init!r}."
      )
    time = x.shape[1]
    if time > self.context:
      raise ValueError(
        f"The input has {time} positions, more than the context of"
        f" {self.context}."
      )
    norm = functools.partial(_normalize, self, mask=mask, train=train)
    if self.positions == "learned":
      embedding = self.param(
        "position_embedding", _EMBEDDING_INIT, (self.context, self.width)
      )
      x += jnp.asarray(embedding[None, :time], self.dtype) / _EMBEDDING_STD
    if self.placement == "peri":
      x = norm(x)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    for layer in range(self.layers):
      x = TransformerBlock(
        self.norm,
        placement=self.placement,
        heads=self.heads,
        causal=causal,
        qk_norm=self.qk_norm,
        rotary=self.positions == "rotary",
        dropout=self.dropout,
        residual_scale=(
          1 / math.sqrt(2 * self.layers) if self.kernel_init == "gpt2" else 1.0
        ),
        fan="fan_avg" if self.kernel_init == "xavier" else "fan_in",
        dtype=self.dtype,
        name=block_name(layer),
      )(x, mask=mask, train=train)
    # Without it, pre-LN ends in the sum of all sub-layers, of any size.
    return norm(x) if self.placement in ("pre", "sandwich", "peri") else x


class LanguageModel(_Stack):
  """Predicts the next token at every position; the embedding is tied.

  Attributes:
    vocabulary: Number of tokens.

  >>> from normjax.linen import make_norm
  >>> model = LanguageModel(functools.partial(make_norm, "ln"), vocabulary=65)
  >>> tokens = jnp.zeros((2, 16), jnp.int32)
  >>> variables = model.init(jax.random.key(0), tokens, train=False)
  >>> model.apply(variables, tokens, train=False).shape
  (2, 16, 65)
  """

  vocabulary: int = 256

  @nn.compact
  def __call__(
    self, tokens: jax.Array, *, mask: jax.Array | None = None, train: bool
  ) -> jax.Array:
    """Returns float32 logits `[b, t, v]` of the tokens that follow.

    Args:
      tokens: Integers `[b, t]`; padded ones may be any, valid or not.
      mask: `[b, t]`, True for tokens, False for padding.
      train: Whether dropout drops and batch norm uses the batch.
    """
    # Tied, an embedding is near its own output: with large ones, the model
    # would start by repeating its input with confidence.
    embedding = self.param(
      "embedding", _EMBEDDING_INIT, (self.vocabulary, self.width)
    )
    if mask is not None:
      tokens = jnp.where(mask, tokens, 0)
    table = jnp.asarray(embedding, self.dtype)
    x = jnp.take(table, tokens, axis=0) / _EMBEDDING_STD
    x = self._blocks(x, mask, causal=True, train=train)
    return jnp.einsum(
      "btw,vw->btv", x, table, preferred_element_type=jnp.float32
    )


class Classifier(_Stack):
  """Classifies sequences: every position sees all others, then their mean.

  Attributes:
    num_classes: Features of the output.

  >>> from normjax.linen import make_norm
  >>> model = Classifier(functools.partial(make_norm, "bn"), num_classes=10)
  >>> rows = jnp.zeros((2, 28, 28))
  >>> variables = model.init(jax.random.key(0), rows, train=False)
  >>> model.apply(variables, rows, train=False).shape
  (2, 10)
  """

  num_classes: int = 10

  @nn.compact
  def __call__(
    self, x: jax.Array, *, mask: jax.Array | None = None, train: bool
  ) -> jax.Array:
    """Returns float32 logits `[b, num_classes]`.

    Args:
      x: Features `[b, t, f]`; padded ones may be NaN.
      mask: `[b, t]`, True where there is something to see.
      train: As in `LanguageModel`.
    """
    if mask is not None:  # Zero times NaN is NaN, in kernels' gradients too.
      x = jnp.where(mask[..., None], x, 0)
    x = nn.Dense(self.width, dtype=self.dtype, name="embedding")(x)
    x = self._blocks(x, mask, causal=False, train=train)
    # Not the mean of what a norm gives: after instance norm it is a constant.
    x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name="pooler")(x))
    x = jnp.mean(x, axis=1, where=None if mask is None else mask[..., None])
    return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


def block_name(layer: int) -> str:
  """Returns the name of a block among the parameters, counted from zero."""
  return f"block_{layer}"


def rotated(x: jax.Array) -> jax.Array:
  """Rotates pairs of features `[b, t, h, f]` by angles that grow with time.

  The product of a rotated query and a rotated key depends on their positions
  through the difference alone. Feature i is paired with feature i + f / 2.

  Raises:
    ValueError: The number of features is odd.
  """
  time, features = x.shape[1], x.shape[-1]
  if features % 2:
    raise ValueError(
      f"Rotary positions pair the features of a head, got {features}, an odd"
      " number; choose another width or number of heads."
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


def _normalize(
  model: Any, x: jax.Array, *, mask: jax.Array | None, train: bool
) -> jax.Array:
  norm = model.norm(train=train, dtype=model.dtype)
  return norm(x, mask=None if mask is None else mask[..., None])


def _largest_logit(
  query: jax.Array, key: jax.Array, mask: jax.Array | None, causal: bool
) -> jax.Array:
  """Returns the largest absolute logit that enters a softmax, a scalar."""
  logits = jnp.einsum("bthf,bshf->bhts", query, key) / math.sqrt(
    query.shape[-1]
  )
  seen = jnp.ones(logits.shape, bool)
  if causal:
    seen &= jnp.tri(query.shape[1], dtype=bool)[None, None]
  if mask is not None:
    seen &= mask[:, None, :, None] & mask[:, None, None, :]
  return jnp.max(jnp.abs(logits), where=seen, initial=0)
