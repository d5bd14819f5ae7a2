"""The figures name every line that they draw."""

import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest
from matplotlib.figure import Figure

from experiments.internals import drawing
from experiments.lab.probes import textbook
from experiments.lab.run import Run


class LegendTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.run_ = Run(pathlib.Path(folder))
    self.rng = np.random.default_rng(0)

  def drawn(self, draw, *args):
    """Returns the dashed lines that are drawn, and the legend's texts."""
    figures = []

    def keep(figure, *args, **kwargs):
      figures.append(figure)

    with mock.patch.object(Figure, "savefig", keep):
      draw(self.run_, *args)
    (figure,) = figures
    lines = [line for panel in figure.axes for line in panel.lines]
    dashed = [line for line in lines if line.get_linestyle() == "--"]
    return dashed, [text.get_text() for text in figure.legends[0].texts]

  def test_quantiles(self):
    x = self.rng.normal(size=(2, 16))
    (dashed,), names = self.drawn(drawing.quantiles, x, x)
    self.assertIn(dashed.get_label(), names)
    self.assertIn("one of the samples", names)

  def test_batch_norm(self):
    batches = self.rng.normal(size=(3, 8, 2))
    scale, bias = np.ones(2), np.zeros(2)
    (dashed,), names = self.drawn(
      drawing.batch_norm,
      textbook.forward(batches[0], scale, bias, 1e-5),
      batches,
      textbook.running(batches, 0.9),
      scale,
      bias,
    )
    self.assertIn(dashed.get_label(), names)


if __name__ == "__main__":
  absltest.main()
