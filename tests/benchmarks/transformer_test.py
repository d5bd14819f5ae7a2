"""Tests of the transformer benchmark: both sides train the same model."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import pathlib
import sys
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from benchmarks import transformer
from experiments.transformer.options import Config

HAS_TORCH = importlib.util.find_spec("torch") is not None

CONFIG = dataclasses.replace(
  Config(), layers=1, width=16, heads=2, context=8, batch_size=4, steps=1000
)


class TransformerTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    # Optax's Adam mixes integers and floats.
    self.enter_context(jax.numpy_dtype_promotion("standard"))

  @absltest.skipUnless(HAS_TORCH, "PyTorch is not installed.")
  def test_the_models_are_the_same(self):
    import torch

    model = transformer.torch_model(CONFIG)
    params = {
      name: jnp.asarray(value.detach().numpy())
      for name, value in model.named_parameters()
    }

    def dense(name):
      return {
        "kernel": params[f"{name}.weight"].T,
        "bias": params[f"{name}.bias"],
      }

    def norm(name):
      return {"scale": params[f"{name}.weight"], "bias": params[f"{name}.bias"]}

    block = "blocks.0"
    ours = {
      "embedding": params["embedding.weight"],
      "LayerNorm_0": norm("norm"),
      "block_0": {
        "LayerNorm_0": norm(f"{block}.norm_1"),
        "LayerNorm_1": norm(f"{block}.norm_2"),
        "query_key_value": dense(f"{block}.query_key_value"),
        "attention_out": dense(f"{block}.out"),
        "feed_forward_in": dense(f"{block}.feed_forward_in"),
        "feed_forward_out": dense(f"{block}.feed_forward_out"),
      },
    }
    tokens = transformer.synthetic(40)[None, :8]
    program = transformer.Normjax(CONFIG, transformer.synthetic(100))
    logits = program.model.apply({"params": ours}, tokens, train=False)
    expected = model(torch.from_numpy(tokens).long()).detach().numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)

  @absltest.skipUnless(HAS_TORCH, "PyTorch is not installed.")
  def test_both_learn(self):
    tokens = transformer.synthetic(2000)
    ours = transformer.Normjax(CONFIG, tokens)
    theirs = transformer.Torch(CONFIG, tokens, 1)
    for program in (ours, theirs):
      program.run(150)
      self.assertLess(program.loss, 4.0)  # Chance is log(65) = 4.17.
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=0.15)

  def test_report_by_hand(self):
    text = transformer.report(
      CONFIG,
      {"ours": [0.1, 0.2, 0.3], "theirs": [0.2, 0.5, 0.3]},
      {"ours": 2.0, "theirs": 2.1},
    )
    self.assertIn("| ours      |        160 | 128 to 213  |     200.0 |", text)
    self.assertIn("2.00 times PyTorch's tokens per second", text)
    self.assertEndsWith(text, "At least 1: yes.")
    text = transformer.report(
      CONFIG, {"ours": [0.3], "theirs": [0.2]}, {"ours": 2.0, "theirs": 2.1}
    )
    self.assertEndsWith(text, "At least 1: NO.")

  def test_without_torch(self):
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    output = io.StringIO()
    with (
      mock.patch.dict(sys.modules, {"torch": None}),
      contextlib.redirect_stdout(output),
    ):
      transformer.run(
        CONFIG,
        transformer.synthetic(500),
        rounds=2,
        seconds=0.01,
        out=str(folder / "out.json"),
      )
    self.assertIn("PyTorch is not installed", output.getvalue())
    result = json.loads((folder / "out.json").read_text())
    (seconds,) = result["seconds_per_step"].values()
    self.assertLen(seconds, 2)


if __name__ == "__main__":
  absltest.main()
