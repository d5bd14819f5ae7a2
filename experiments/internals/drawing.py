"""The figures of `experiments.internals`."""

from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.lab import figures
from experiments.lab.probes import dependence, textbook
from experiments.lab.study import Run

if TYPE_CHECKING:
  from matplotlib.axes import Axes

# Colours that are not those of norms, for groups and features.
_SHADES = ("#4d4d4d", "#56b4e9", "#999933", "#882255")


def histograms(
  run: Run, name: str, before: np.ndarray, after: np.ndarray
) -> None:
  """Draws the values of the first groups before and after a norm."""
  with figures.drawing(
    run,
    f"histograms_{name}",
    title=f"Values before and after {name}, by group",
  ) as axes:
    for panel, values, title in zip(
      axes, (before, after), ("Before", "After"), strict=True
    ):
      shown = values[: len(_SHADES)]
      panel.hist(
        list(shown),
        np.histogram_bin_edges(shown, 8),
        color=_SHADES[: len(shown)],
        label=[f"group {index}" for index in range(len(shown))],
      )
      panel.locator_params(axis="y", integer=True)
      figures.label(panel, title, "Value", "Number of values")


def quantiles(run: Run, before: np.ndarray, after: np.ndarray) -> None:
  """Draws quantiles of 64 samples of 512, before and after layer norm."""
  from scipy import stats

  size = before.shape[1]
  normal = stats.norm.ppf((np.arange(size) + 0.5) / size)
  with figures.drawing(
    run,
    "quantiles",
    title="Layer norm of 64 samples of 512 values",
  ) as axes:
    for panel, values, title in zip(
      axes, (before, after), ("Before", "After"), strict=True
    ):
      panel.plot(
        normal,
        np.sort(values, axis=1).T,
        color=figures.norm_color("ln"),
        alpha=0.15,
        linewidth=1,
      )
      figures.label(
        panel, title, "Quantile of the normal distribution", "Value"
      )
    color = figures.norm_color("ln")
    axes[0].plot([], [], color=color, label="one of the samples")
    name = "values distributed as the standard normal"
    axes[1].plot(normal, normal, "k--", linewidth=1.5, label=name)


def cubes(run: Run) -> None:
  """Draws for every norm which values of N x (H, W) x C share a mean."""
  shape = (4, 2, 2, 4)
  with figures.drawing(
    run,
    "axes",
    columns=5,
    size=(17, 4.4),
    title="Values that share a mean with the first one (N, H, W, C)",
    caption="One row per position H, W of an example N; found by"
    " differentiating each norm",
    legend=False,
  ) as axes:
    whole = {"reduction_axes": (1, 2, 3)}
    cases: list[tuple[str, dict[str, Any]]] = [
      ("bn", {}),
      ("ln", {}),
      ("ln", whole),
      ("in", {}),
      ("gn", {}),
    ]
    for panel, (name, options) in zip(axes, cases, strict=True):
      norm = dependence.Norm(name, shape, **options)
      x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
      shared = norm.influences(x).reshape(shape[0], -1, shape[3])
      _cube(panel, shared, figures.norm_color(name))
      panel.set_title(f"{name}: {norm.describe()}", fontsize=13)


def _cube(panel: "Axes", shared: np.ndarray, color: str) -> None:
  """Draws booleans `[N, positions, C]` as a cube in oblique projection."""
  from matplotlib.patches import Polygon

  examples, positions, channels = shared.shape
  depth = np.array([0.45, 0.35])

  def corner(n: float, p: float, c: float) -> np.ndarray:
    # N to the right, H W upwards, C into the page.
    return np.array([n, p]) + c * depth

  def face(corners: list[np.ndarray], filled: bool) -> None:
    panel.add_patch(
      Polygon(
        np.array(corners),
        facecolor=color if filled else "white",
        edgecolor="#4d4d4d",
        linewidth=0.8,
      )
    )

  top = positions
  for n in range(examples):
    for p in range(positions):  # Front: the first channel.
      square = [(n, p), (n + 1, p), (n + 1, p + 1), (n, p + 1)]
      face([corner(a, b, 0) for a, b in square], shared[n, top - 1 - p, 0])
    for c in range(channels):  # Top: the first position.
      square = [(n, c), (n + 1, c), (n + 1, c + 1), (n, c + 1)]
      face([corner(a, top, b) for a, b in square], shared[n, 0, c])
  # Right side: the last example.
  for p in range(positions):
    for c in range(channels):
      square = [(p, c), (p + 1, c), (p + 1, c + 1), (p, c + 1)]
      face(
        [corner(examples, a, b) for a, b in square],
        shared[-1, top - 1 - p, c],
      )
  panel.set_aspect("equal")
  panel.autoscale_view()
  panel.set_axis_off()
  panel.text(examples / 2, -0.3, "N", ha="center", va="top")
  panel.text(-0.3, positions / 2, "H, W", ha="right", va="center", rotation=90)
  end = corner(examples, 0, channels / 2) + np.array([0.25, -0.25])
  panel.text(end[0], end[1], "C", ha="left", va="top")


def batch_norm(
  run: Run,
  steps: textbook.Forward,
  batches: np.ndarray,
  running: tuple[np.ndarray, np.ndarray],
  scale: np.ndarray,
  bias: np.ndarray,
) -> None:
  """Draws the steps, running statistics and evaluation of batch norm."""
  with figures.drawing(
    run,
    "batch_norm",
    rows=2,
    title="Inside batch norm: three features, batches of 32",
  ) as axes:
    stages = (batches[0], steps.normalized, steps.scaled, steps.output)
    names = ("input", "normalized", "scaled", "shifted")
    for feature in range(batches.shape[2]):
      color = _SHADES[1:][feature]
      name = f"feature {feature + 1}"
      for stage, values in enumerate(stages[1:]):
        axes[0].plot(
          np.full(len(values), stage) + 0.2 * (feature - 1),
          values[:, feature],
          "o",
          color=color,
          alpha=0.5,
          markersize=4,
        )
      count = np.arange(1, len(batches) + 1)
      for panel, values, batch in (
        (axes[1], running[0], batches.mean(axis=1)),
        (axes[2], running[1], batches.var(axis=1)),
      ):
        panel.plot(count, values[:, feature], color=color, label=name)
        panel.plot(count, batch[:, feature], ".", color=color, alpha=0.4)
      mean, var = running[0][-1, feature], running[1][-1, feature]
      evaluated = (batches[0, :, feature] - mean) / np.sqrt(var)
      axes[3].plot(
        steps.output[:, feature],
        scale[feature] * evaluated + bias[feature],
        "o",
        color=color,
        alpha=0.7,
        markersize=4,
      )
    axes[0].set_xticks(range(3), names[1:])
    figures.label(axes[0], "One batch, step by step", "Step", "Value")
    figures.label(
      axes[1], "Running mean (line), batches (dots)", "Training step", "Mean"
    )
    figures.label(
      axes[2],
      "Running variance (line), batches (dots)",
      "Training step",
      "Variance",
    )
    figures.label(
      axes[3],
      "The same batch, two ways",
      "Training output",
      "Evaluation output",
    )
    axes[3].axline(
      (0, 0),
      slope=1,
      color="k",
      linestyle="--",
      linewidth=1,
      label="equal outputs",
    )
