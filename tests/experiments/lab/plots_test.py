import os
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from matplotlib.figure import Figure
from PIL import Image

from experiments.lab import plots

NAN = np.nan


def history(train, val=None):
  return {"train_loss": train, "val_loss": train if val is None else val}


class NormColorTest(parameterized.TestCase):
  def test_known_norms_differ(self):
    self.assertLen(set(plots.NORM_COLORS.values()), len(plots.NORM_COLORS))

  def test_other_norms_do_not_look_like_known_ones(self):
    colors = {plots.norm_color(f"norm{index}") for index in range(50)}
    self.assertGreater(len(colors), 3)
    self.assertNoCommonElements(colors, plots.NORM_COLORS.values())

  def test_other_norms_keep_their_color_across_processes(self):
    code = "from experiments.lab import plots; print(plots.norm_color('dyt'))"
    color = subprocess.run(
      [sys.executable, "-c", code],
      env=os.environ | {"PYTHONHASHSEED": "7"},
      check=True,
      capture_output=True,
      text=True,
    ).stdout
    self.assertEqual(color.strip(), plots.norm_color("dyt"))


class PlotCurvesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = self.enterContext(tempfile.TemporaryDirectory())
    self.path = os.path.join(self.folder, "curves.png")

  def draw(self, histories):
    """Returns the two panels of the figure that was drawn."""
    figures = []
    save = Figure.savefig

    def spy(figure, *args, **kwargs):
      figures.append(figure)
      return save(figure, *args, **kwargs)

    with mock.patch.object(Figure, "savefig", spy):
      plots.plot_curves(histories, self.path, title="A study")
    return figures[0].axes

  def test_writes_one_image_and_leaves_pyplot_alone(self):
    code = (
      "import sys; from experiments.lab import plots;"
      "assert 'matplotlib' not in sys.modules;"
      "plots.plot_curves({'ln': {'train_loss': [[1.0, 0.5]],"
      f"'val_loss': [[1.0, 0.5]]}}}}, {self.path!r}, title='A study');"
      "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    self.assertEqual(os.listdir(self.folder), ["curves.png"])
    with Image.open(self.path) as image:
      self.assertEqual(image.format, "PNG")
      self.assertGreaterEqual(image.width, 1500)

  def test_line_is_the_mean_and_band_its_interval(self):
    # Mean 2, sample standard deviation 1, t(0.975, 2 degrees) = 4.30265.
    train, val = self.draw(
      {"ln": history([[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]])}
    )
    half_width = 4.302653 / np.sqrt(3)
    for panel, mean in ((train, 2.0), (val, 5.0)):
      np.testing.assert_allclose(panel.lines[0].get_ydata(), [mean])
      vertices = panel.collections[0].get_paths()[0].vertices
      np.testing.assert_allclose(
        [vertices[:, 1].min(), vertices[:, 1].max()],
        [mean - half_width, mean + half_width],
        rtol=1e-5,
      )

  def test_stopped_seeds(self):
    values = np.array([[3.0, 2.0, 1.0, 0.9], [5.0, 4.0, NAN, NAN]])
    train, _ = self.draw({"ln": history(values)})
    solid, dotted = train.lines
    np.testing.assert_array_equal(solid.get_xdata(), [1, 2])
    np.testing.assert_array_equal(solid.get_ydata(), [4.0, 3.0])
    self.assertEqual(solid.get_linestyle(), "-")
    np.testing.assert_array_equal(dotted.get_xdata(), [2, 3, 4])
    np.testing.assert_array_equal(dotted.get_ydata(), [3.0, 1.0, 0.9])
    self.assertEqual(dotted.get_linestyle(), ":")
    # The band ends where a single seed is left.
    vertices = train.collections[0].get_paths()[0].vertices
    self.assertEqual(vertices[:, 0].max(), 2)
    caption = train.figure.legends[0].get_title().get_text()
    self.assertIn("Mean of 2 seeds", caption)
    self.assertIn("dotted", caption)

  def test_one_seed_has_no_band(self):
    train, _ = self.draw({"ln": history([[1.0, 0.5]])})
    self.assertEmpty(train.collections[0].get_paths())
    caption = train.figure.legends[0].get_title().get_text()
    self.assertEqual(caption, "One seed")

  def test_units_colors_and_legend(self):
    panels = self.draw({"ln": history([[1.0, 0.5]]), "x": history([[1.0]])})
    for panel in panels:
      self.assertEqual(panel.get_xlabel(), "Epoch")
      self.assertEqual(panel.get_ylabel(), "Cross-entropy (nats)")
      self.assertEqual(
        [panel.lines[0].get_color(), panel.lines[2].get_color()],
        [plots.NORM_COLORS["ln"], plots.norm_color("x")],
      )
    texts = [text.get_text() for text in panels[0].figure.legends[0].texts]
    self.assertEqual(texts, ["ln", "x"])

  @parameterized.parameters(
    ([[0.35, 0.1, 0.012]], "log"),
    ([[0.2, 0.1, 0.07]], "linear"),
    ([[0.2, 0.0, -0.1]], "linear"),
    ([[0.2, 0.2]], "linear"),
    ([[0.35, 0.01], [0.35, 0.05]], "log"),  # The band reaches below zero.
  )
  def test_scale(self, values, expected):
    for panel in self.draw({"ln": history(values)}):
      self.assertEqual(panel.get_yscale(), expected)
      low, high = panel.get_ylim()
      means = np.mean(values, axis=0)
      self.assertLess(low, means.min())
      self.assertGreater(high, means.max())

  def test_diverged_seed(self):
    train, _ = self.draw({"ln": history([[1.0, np.inf], [1.0, 0.5]])})
    np.testing.assert_array_equal(train.lines[1].get_ydata(), [1.0, 0.5])

  @parameterized.parameters(
    ({}, "at least one norm"),
    ({"ln": {"train_loss": [[1.0]]}}, r"'ln' lacks 'val_loss'.*train_loss"),
    ({"ln": history([1.0])}, r"\[seeds, epochs\], got shape \(1,\)"),
    ({"ln": history(np.zeros((2, 0)))}, r"got shape \(2, 0\)"),
    ({"ln": history([[NAN]])}, "no finite value"),
  )
  def test_refuses(self, histories, message):
    with self.assertRaisesRegex(ValueError, message):
      plots.plot_curves(histories, self.path, title="A study")
    self.assertEmpty(os.listdir(self.folder))


if __name__ == "__main__":
  absltest.main()
