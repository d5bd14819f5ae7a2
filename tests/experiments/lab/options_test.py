"""Tests of the command line, on the settings of the MNIST study."""

import dataclasses

from absl import flags
from absl.testing import parameterized

from experiments.lab.options import define
from experiments.lab.runs.workdir import Files
from experiments.mnist import Config


def parse(*argv, defaults=Config()):  # noqa: B008
  values = flags.FlagValues()
  read = define(defaults, {}, {}, values)
  values(["study", *argv])
  return read()


class FlagsTest(parameterized.TestCase):
  def test_defaults_are_those_of_the_study(self):
    defaults = Config(norm=("bn", "none"), epochs=7, hidden=(64, 32))
    self.assertEqual(parse(defaults=defaults), (defaults, Files()))

  def test_every_setting_has_a_flag_with_help(self):
    values = flags.FlagValues()
    define(Config(), {}, {}, values)
    names = {field.name for field in dataclasses.fields(Config)}
    names |= set(Files._fields)
    self.assertContainsSubset(names, set(values))
    for name in names:
      self.assertNotEmpty(values[name].help)

  def test_reads_everything(self):
    config, files = parse(
      "--norm=ln, bn",
      "--norm_position=after",
      "--model=cnn",
      "--hidden=8,16",
      "--dropout=0.25",
      "--dtype=bfloat16",
      "--dataset=digits",
      "--train_fraction=0.5",
      "--epochs=3",
      "--batch_size=32",
      "--learning_rate=0.01",
      "--l1=1e-5",
      "--l2=1e-4",
      "--patience=2",
      "--min_delta=0",
      "--seed=10",
      "--seeds=4",
      "--workdir=here",
      "--resume",
      "--data_dir=there",
    )
    self.assertEqual(
      config,
      Config(
        norm=("ln", "bn"),
        norm_position="after",
        model="cnn",
        hidden=(8, 16),
        dropout=0.25,
        dtype="bfloat16",
        dataset="digits",
        train_fraction=0.5,
        epochs=3,
        batch_size=32,
        learning_rate=0.01,
        l1=1e-5,
        l2=1e-4,
        patience=2,
        min_delta=0.0,
        seed=10,
        seeds=4,
      ),
    )
    self.assertEqual(files, Files("here", True, "there"))

  @parameterized.parameters(
    ("--norm=lnn", "'lnn' is not among the names none, ln, rms, bn, gn, in"),
    ("--norm=", "'nothing' is not among the names"),
    ("--norm=ln,ln", "twice"),
    ("--norm_position=beside", "before.after"),
    ("--model=vit", "mlp.cnn"),
    ("--hidden=12a", "such as 128 or 256,128"),
    ("--hidden=128,0", "positive"),
    ("--dropout=1", "at least 0 and below 1"),
    ("--dropout=nan", "at least 0 and below 1"),
    ("--dtype=float16", "float32.bfloat16"),
    ("--train_fraction=1", "between 0 and 1"),
    ("--epochs=0", "positive"),
    ("--batch_size=-1", "positive"),
    ("--learning_rate=0", "above 0"),
    ("--learning_rate=inf", "above 0"),
    ("--learning_rate=fast", "above 0|float"),
    ("--l1=-1", "at least 0"),
    ("--l2=-1", "at least 0"),
    ("--patience=0", "positive"),
    ("--min_delta=-1", "at least 0"),
    ("--seed=-1", "0, 2147483648"),
    ("--seeds=0", "1, 1000"),
    ("--epoch=3", "epochs"),
  )
  def test_refuses_bad_values(self, flag, message):
    with self.assertRaisesRegex(flags.Error, message):
      parse(flag)
