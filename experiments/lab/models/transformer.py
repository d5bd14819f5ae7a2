"""Transformers: a decoder language model, an encoder classifier.

Shapes: b batch, t time, w width, v vocabulary. Both take a padding mask
`[b, t]`, False for padding; see `blocks`.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.lab.models.blocks import (
  PLACEMENTS,
  NormFactory,
  TransformerBlock,
  normalized,
)

POSITIONS = ("rotary", "learned")

# Initialization of kernels; biases start at zero.
KERNEL_INITS = {
  "gpt2": "variance 1 / inputs, and kernels that write into the residual stream"
  " 1/sqrt(2 layers) times as large",
  "lecun": "variance 1 / inputs",
  "xavier": "variance 2 / (inputs + outputs), queries, keys and values being"
  " one kernel",
}

# From GPT-2. Inputs are divided by it, so that blocks start with unit variance.
_EMBEDDING_STD = 0.02
_EMBEDDING_INIT = nn.initializers.normal(_EMBEDDING_STD)


class _Stack(nn.Module):
  """The blocks between the embedding and the output layer.

  Attributes:
    norm, placement, heads, causal, qk_norm, dropout, dtype: As in
      `TransformerBlock`.
    layers: Number of blocks.
    width: Number of features of the residual stream.
    context: Maximum number of positions.
    positions: "rotary", or "learned": a vector per position, added to the
      embedding.
    kernel_init: One of `KERNEL_INITS`. With "gpt2" the variance of the residual
      stream does not grow with depth: Radford et al., 2019, section 2.3.
      "xavier" is Glorot & Bengio, 2010, as in fairseq, which many papers use.
      Its gain of 1/sqrt(2) for queries, keys and values gives the same variance
      as their stacked kernel here.
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
    norm = functools.partial(normalized, self, mask=mask, train=train)
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
    # Without it, pre-LN ends in the unnormalized sum of all sub-layers.
    return norm(x) if self.placement in ("pre", "sandwich", "peri") else x


class LanguageModel(_Stack):
  """Predicts the next token at every position, with a tied embedding.

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
    """Returns float32 logits `[b, t, v]` of the next tokens.

    Args:
      tokens: Integers `[b, t]`; padding may be any number, valid or not.
      mask: `[b, t]`, True for tokens, False for padding.
      train: Whether dropout is on and batch norm uses the batch statistics.
    """
    # Small, because the embedding is tied: with a large one, the model would
    # start by predicting its input with confidence.
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
  """Classifies sequences: attention without a causal mask, then a mean.

  Attributes:
    num_classes: Number of outputs.

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
      x: Features `[b, t, f]`; padding may be NaN.
      mask: `[b, t]`, False for padding.
      train: As in `LanguageModel`.
    """
    if mask is not None:  # 0 * NaN is NaN, also in the gradients of kernels.
      x = jnp.where(mask[..., None], x, 0)
    x = nn.Dense(self.width, dtype=self.dtype, name="embedding")(x)
    x = self._blocks(x, mask, causal=False, train=train)
    # A layer before the mean, which is constant right after instance norm.
    x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name="pooler")(x))
    x = jnp.mean(x, axis=1, where=None if mask is None else mask[..., None])
    return nn.Dense(self.num_classes, name="head")(x.astype(jnp.float32))


def block_name(layer: int) -> str:
  """Returns the name of a block's parameters; blocks count from zero."""
  return f"block_{layer}"
