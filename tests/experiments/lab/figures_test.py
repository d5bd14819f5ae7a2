"""Tests of figures: colours, lines, bands, and what is left out."""

import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from matplotlib.figure import Figure
from PIL import Image

from experiments.lab import curves, figures
from experiments.lab.run import Run

NAN = np.nan


class NormColorTest(parameterized.TestCase):
  def test_known_norms_differ(self):
    colors = figures.NORM_COLORS
    self.assertLen({*colors.values()}, len(colors))

  def test_other_norms_do_not_look_like_known_ones(self):
    colors = {figures.norm_color(f"norm{index}") for index in range(50)}
    self.assertGreater(len(colors), 3)
    self.assertNoCommonElements(colors, figures.NORM_COLORS.values())

  def test_other_norms_keep_their_color_across_processes(self):
    code = (
      "from experiments.lab import figures as f; print(f.norm_color('dyt'))"
    )
    color = subprocess.run(
      [sys.executable, "-c", code],
      env=os.environ | {"PYTHONHASHSEED": "7"},
      check=True,
      capture_output=True,
      text=True,
    ).stdout
    self.assertEqual(color.strip(), figures.norm_color("dyt"))


def history(train, val=None, norm="ln", **options):
  losses = {"train_loss": np.array(train), "val_loss": np.array(val or train)}
  at = np.arange(1, losses["train_loss"].shape[1] + 1)
  return curves.History(at, losses, norm, **options)


def _every(line):
  start, step = line.get_markevery()
  return start, None, step


class BarTest(absltest.TestCase):
  def test_is_the_mean_with_its_interval(self):
    panel = Figure().subplots()
    figures.bar(panel, 3, [1.0, 2.0, 3.0], "ln", width=0.5, name="LN")
    (bar,) = panel.patches
    self.assertEqual((bar.get_x(), bar.get_width()), (2.75, 0.5))
    self.assertEqual(bar.get_height(), 2.0)
    ((_, low), (_, high)) = panel.collections[0].get_segments()[0]
    half_width = 4.302653 / np.sqrt(3)
    np.testing.assert_allclose(
      [low, high], [2 - half_width, 2 + half_width], rtol=1e-6
    )
    self.assertEqual(panel.get_legend_handles_labels()[1], ["LN"])
    self.assertEmpty(panel.texts)

  def test_says_how_many_seeds_diverged(self):
    for values, mean in (([1.0, NAN, 3.0, np.inf], 2.0), ([NAN, NAN], 0.0)):
      panel = Figure().subplots()
      figures.bar(panel, 0, values, "ln", width=0.5)
      (bar,) = panel.patches
      self.assertEqual(bar.get_height(), mean)
      (text,) = panel.texts
      self.assertEqual(text.get_text(), "2 diverged")


class CurvesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def draw(self, histories):
    """Returns the two panels of the figure that was drawn."""
    drawn = []
    save = Figure.savefig

    def spy(figure, *args, **kwargs):
      drawn.append(figure)
      return save(figure, *args, **kwargs)

    with mock.patch.object(Figure, "savefig", spy):
      curves.draw(Run(self.folder), histories, title="A study", unit="Epoch")
    return drawn[0].axes if drawn else None

  def test_writes_one_image_and_leaves_pyplot_alone(self):
    code = (
      "import pathlib, sys; from experiments.lab import figures, run;"
      "assert 'matplotlib' not in sys.modules;"
      f"r = run.Run(pathlib.Path({str(self.folder)!r}))\n"
      "with figures.drawing(r, 'x', title='A study') as panels:\n"
      "  figures.curve(panels[0], [1, 2], [[1.0, 0.5]], 'ln')\n"
      "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    self.assertEqual(os.listdir(self.folder), ["x.png"])
    with Image.open(self.folder / "x.png") as image:
      self.assertEqual(image.format, "PNG")
      self.assertGreaterEqual(image.width, 1300)

  def test_line_is_the_mean_and_band_its_interval(self):
    # Mean 2, sample standard deviation 1, t(0.975, 2 degrees) = 4.30265.
    panels = self.draw(
      {"ln": history([[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]])}
    )
    half_width = 4.302653 / np.sqrt(3)
    for panel, mean in zip(panels, (2.0, 5.0), strict=True):
      np.testing.assert_allclose(panel.lines[0].get_ydata(), [mean])
      vertices = panel.collections[0].get_paths()[0].vertices
      np.testing.assert_allclose(
        [vertices[:, 1].min(), vertices[:, 1].max()],
        [mean - half_width, mean + half_width],
        rtol=1e-5,
      )

  def test_lines_that_coincide_can_be_told_apart(self):
    same = [list(np.linspace(2, 1, 20))]
    panel, _ = self.draw({name: history(same) for name in ("a", "b", "c")})
    widths = [line.get_linewidth() for line in panel.lines]
    self.assertEqual(widths, sorted(set(widths), reverse=True))
    # Each has markers of its own.
    marked = [np.arange(20)[slice(*_every(line))] for line in panel.lines]
    self.assertLen(set(np.concatenate(marked)), 20)

  def test_one_evaluation_shows_its_interval(self):
    panel, _ = self.draw({"ln": history([[1.0], [2.0]])})
    (bar,) = panel.collections[0].get_segments()
    low, high = np.sort(bar[:, 1])
    self.assertLess(low, 1.5)
    self.assertGreater(high, 1.5)
    np.testing.assert_array_equal(panel.get_xticks() % 1, 0)

  def test_stopped_seeds(self):
    values = [[3.0, 2.0, 1.0, 0.9], [5.0, 4.0, NAN, NAN]]
    train, _ = self.draw({"ln": history(values)})
    solid, dotted = train.lines
    np.testing.assert_array_equal(solid.get_xdata(), [1, 2])
    np.testing.assert_array_equal(solid.get_ydata(), [4.0, 3.0])
    self.assertEqual(solid.get_linestyle(), "-")
    np.testing.assert_array_equal(dotted.get_xdata(), [2, 3, 4])
    # The seed that stopped counts with its last loss, 4.0.
    np.testing.assert_array_equal(dotted.get_ydata(), [3.0, 2.5, 2.45])
    self.assertEqual(dotted.get_linestyle(), ":")
    vertices = train.collections[0].get_paths()[0].vertices
    self.assertEqual(vertices[:, 0].max(), 2)
    caption = train.figure.legends[0].get_title().get_text()
    self.assertIn("Mean of 2 seeds", caption)
    self.assertIn("dotted", caption)

  def test_units_colors_and_legend(self):
    panels = self.draw(
      {"ln": history([[1.0, 0.5]]), "x": history([[1.0]], norm="x")}
    )
    for panel in panels:
      self.assertEqual(panel.get_xlabel(), "Epoch")
      self.assertEqual(panel.get_ylabel(), "Cross-entropy (nats)")
      self.assertEqual(
        [line.get_color() for line in panel.lines],
        [figures.NORM_COLORS["ln"], figures.norm_color("x")],
      )
    legend = panels[0].figure.legends[0]
    self.assertEqual([t.get_text() for t in legend.texts], ["ln", "x"])
    self.assertEqual(legend.get_title().get_text(), "One seed")

  @parameterized.parameters(
    ([[0.35, 0.1, 0.012]], "log"),
    ([[0.2, 0.1, 0.07]], "linear"),
    ([[0.2, 0.0, -0.1]], "linear"),
    ([[0.2, 0.2]], "linear"),
    ([[0.35, 0.01], [0.35, 0.05]], "log"),  # The band reaches below zero.
    ([[0.4, 0.3, 0.3], [0.4, 0.3, 9.0]], "log"),
    ([[1e20]], "linear"),
  )
  def test_scale(self, values, expected):
    for panel in self.draw({"ln": history(values)}):
      self.assertEqual(panel.get_yscale(), expected)
      low, high = panel.get_ylim()
      means = np.mean(values, axis=0)
      self.assertLess(low, means.min())
      self.assertGreater(high, means.max())

  def test_bands_of_few_seeds_do_not_dwarf_the_lines(self):
    for panel in self.draw({"ln": history([[0.4, 0.3], [0.3, 0.4]])}):
      low, high = panel.get_ylim()
      self.assertLess(high - low, 0.1)

  def test_diverged_seeds(self):
    train, _ = self.draw({"ln": history([[1.0, np.inf], [1.0, 0.5]])})
    np.testing.assert_array_equal(train.lines[1].get_ydata(), [1.0, 0.75])
    # A model of which nothing can be drawn is left out.
    lost = history([[NAN, NAN]])
    train, _ = self.draw({"ln": history([[1.0, 0.5]]), "bn": lost})
    self.assertLen(train.lines, 1)
    self.assertIsNone(self.draw({"bn": lost}))


if __name__ == "__main__":
  absltest.main()
