"""Small models for images; each takes its norm as an argument."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

NORM_POSITIONS = ("before", "after")


class MLP(nn.Module):
  """Flatten, then Dense, norm, activation and dropout for each hidden layer.

  Attributes:
    norm: Called as `norm(train=..., dtype=...)`, returns the module to use,
      such as `functools.partial(normjax.linen.make_norm, "ln")`.
    norm_position: "before" or "after" the activation.
    hidden: Number of features of each hidden layer.
    activation: Activation of the hidden layers.
    kernel_init: Initializer of every kernel.
    dropout: Dropout rate after each hidden layer.
    num_classes: Number of outputs.
    dtype: Dtype of the computation; parameters are float32.

  >>> import functools
  >>> from normjax.linen import make_norm
  >>> model = MLP(norm=functools.partial(make_norm, "ln"), hidden=(32,))
  >>> x = jnp.zeros((4, 8, 8, 1))
  >>> variables = model.init(jax.random.key(0), x, train=False)
  >>> model.apply(variables, x, train=False).shape
  (4, 10)
  """

  norm: Callable[..., nn.Module]
  norm_position: str = "before"
  hidden: tuple[int, ...] = (128,)
  activation: Callable[[jax.Array], jax.Array] = nn.relu
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  dropout: float = 0.0
  num_classes: int = 10
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits `[n, num_classes]` of the images `[n, ...]`."""
    dense = functools.partial(
      nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init
    )
    x = x.reshape(x.shape[0], -1).astype(self.dtype)
    for width in self.hidden:
      x = dense(width)(x)
      x = _normalized(self, x, train, self.activation)
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return dense(self.num_classes)(x)


class CNN(nn.Module):
  """3x3 convolutions with norm and activation; the size halves in between.

  Ends in dropout and a dense layer on the flattened maps.

  Attributes:
    hidden: Number of channels of each convolution.
    norm, norm_position, dropout, num_classes, dtype: As in `MLP`.
  """

  norm: Callable[..., nn.Module]
  norm_position: str = "before"
  hidden: tuple[int, ...] = (16, 32, 32)
  dropout: float = 0.0
  num_classes: int = 10
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits `[n, num_classes]` of `[n, height, width, c]`.

    Raises:
      ValueError: The images are too small to be halved between convolutions.
    """
    _check_size(x, len(self.hidden), len(self.hidden) - 1)
    x = x.astype(self.dtype)
    for layer, channels in enumerate(self.hidden):
      if layer > 0:
        # Not max pooling, which takes longer on CPUs.
        x = _pooled(x, jnp.mean)
      x = nn.Conv(channels, (3, 3), dtype=self.dtype)(x)
      x = _normalized(self, x, train, nn.relu)
    # Not the mean over positions, which is constant after instance norm.
    x = x.reshape(x.shape[0], -1)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.dtype)(x)


class ConvNet(nn.Module):
  """The convolutional net of many tutorials.

  Each stage is a 3x3 convolution, norm, ReLU and 2x2 max pooling. A dense layer
  with norm, ReLU and dropout follows, and a dense layer for the classes.

  Attributes:
    hidden: Number of channels of each stage and, last, of features of the dense
      layer.
    norm, norm_position, dropout, num_classes, dtype: As in `MLP`.
  """

  norm: Callable[..., nn.Module]
  norm_position: str = "before"
  hidden: tuple[int, ...] = (64, 128, 256, 512)
  dropout: float = 0.5
  num_classes: int = 10
  dtype: jax.typing.DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Returns the logits `[n, num_classes]` of `[n, height, width, c]`.

    Raises:
      ValueError: The images are too small to be halved in every stage.
    """
    *stages, features = self.hidden
    _check_size(x, len(stages), len(stages))
    x = x.astype(self.dtype)
    for channels in stages:
      x = nn.Conv(channels, (3, 3), dtype=self.dtype)(x)
      x = _normalized(self, x, train, nn.relu)
      x = _pooled(x, jnp.max)
    x = x.reshape(x.shape[0], -1)
    x = nn.Dense(features, dtype=self.dtype)(x)
    x = _normalized(self, x, train, nn.relu)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.dtype)(x)


Net = MLP | CNN | ConvNet

# The models by their names in the `--model` flag.
MODELS: dict[str, type[MLP] | type[CNN] | type[ConvNet]] = {
  "mlp": MLP,
  "cnn": CNN,
  "convnet": ConvNet,
}


def scannable(model: nn.Module) -> bool:
  """Whether a loop over the steps of a training should be compiled."""
  return scans_convolutions() or not isinstance(model, CNN | ConvNet)


def scans_convolutions() -> bool:
  """Whether convolutions are fast in compiled loops.

  On CPUs they are ten times slower there, see `Engine`.
  """
  return jax.default_backend() != "cpu"


def _check_size(x: jax.Array, convolutions: int, halvings: int) -> None:
  """Raises ValueError if images cannot be halved that often."""
  if min(x.shape[1:3]) < 2**halvings:
    raise ValueError(
      f"{convolutions} convolutions halve the image {halvings} times,"
      f" which needs at least {2**halvings} pixels per side, got images of"
      f" {x.shape[1:3]}; use fewer convolutions."
    )


def _pooled(x: jax.Array, reduce: Callable[..., jax.Array]) -> jax.Array:
  """Reduces 2x2 positions to one; an odd last row or column is left out."""
  n, height, width, channels = x.shape
  height, width = height // 2, width // 2
  x = x[:, : 2 * height, : 2 * width]
  x = x.reshape(n, height, 2, width, 2, channels)
  return reduce(x, axis=(2, 4))


def _normalized(
  model: Net,
  x: jax.Array,
  train: bool,
  activation: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  norm = model.norm(train=train, dtype=model.dtype)
  if model.norm_position == "before":
    return activation(norm(x))
  if model.norm_position == "after":
    return norm(activation(x))
  raise ValueError(
    f"norm_position must be one of {NORM_POSITIONS}, got"
    f" {model.norm_position!r}."
  )
