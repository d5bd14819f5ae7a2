"""Tests of the command line, on the settings of the MNIST study."""

import dataclasses

from absl import flags
from absl.testing import parameterized

from experiments import moons, position
from experiments.internals.__main__ import Config as InternalsConfig
from experiments.lab.errors import RefusedError
from experiments.lab.options import define, refuse_unused
from experiments.lab.runs.workdir import Files
from experiments.mnist import Config
from experiments.transformer.options import Config as TransformerConfig

NO_PRESETS = {"quick": {}, "full": {}, "confirm": {}}
PRESETS = {
  "quick": {"seeds": 2},
  "full": {"epochs": 99},
  "confirm": {"seed": 100, "seeds": 20},
}


def parse(*argv, defaults=Config(), **presets):  # noqa: B008
  values = flags.FlagValues()
  read = define(defaults, **(presets or NO_PRESETS), values=values)
  values(["study", *argv])
  return read()


class FlagsTest(parameterized.TestCase):
  def test_defaults_are_those_of_the_study(self):
    defaults = Config(norm=("bn", "none"), epochs=7, hidden=(64, 32))
    self.assertEqual(parse(defaults=defaults), (defaults, Files()))

  @parameterized.parameters(
    ((), (0, Config().seeds, 20)),
    (("--confirm",), (100, 20, 20)),
    (("--confirm", "--scale=full"), (100, 20, 99)),
    (("--confirm", "--quick"), (100, 2, 20)),
    (("--confirm", "--quick", "--seeds=7"), (100, 7, 20)),
  )
  def test_presets_are_other_defaults(self, argv, expected):
    config, _ = parse(*argv, **PRESETS)
    self.assertEqual((config.seed, config.seeds, config.epochs), expected)

  def test_help_says_what_confirm_stands_for(self):
    values = flags.FlagValues()
    define(Config(), **PRESETS, values=values)
    self.assertIn("experiments/REGISTERED.md", values["confirm"].help)
    self.assertIn("Stands for --seed=100 --seeds=20.", values["confirm"].help)

  def test_without_a_full_scale_there_is_no_flag(self):
    with self.assertRaisesRegex(flags.Error, "Unknown.*scale"):
      parse("--scale=full")

  def test_refuses_a_folder_of_data_that_does_not_exist(self):
    with self.assertRaisesRegex(RefusedError, "--data_dir=/no/where is not a"):
      parse("--data_dir=/no/where")

  def test_every_setting_has_a_flag_with_help(self):
    values = flags.FlagValues()
    define(Config(), **NO_PRESETS, values=values)
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
      "--data_dir=/",
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
    self.assertEqual(files, Files("here", True, "/"))

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


NO_EFFECT = (
  (Config(norm=("none",)), "norm_position", "with --norm=none"),
  (Config(dataset="digits"), "data_dir", "on the digits"),
  (position.Config(dataset="digits"), "halve", "on the digits"),
  (moons.Config(), "data_dir", "points are drawn"),
  (InternalsConfig(), "seeds", "one array"),
  (TransformerConfig(task="copy"), "dataset", "with --task=copy"),
  (TransformerConfig(task="sort"), "sample", "with --task=sort"),
  (TransformerConfig(task="copy"), "tokens", "with --task=copy"),
  (TransformerConfig(task="mnist"), "tokens", "with --task=mnist"),
  (TransformerConfig(task="mnist"), "sample", "with --task=mnist"),
  (TransformerConfig(task="mnist"), "context", "the rows of an image"),
  (TransformerConfig(dataset="pydoc"), "data_dir", "no data set of TFDS"),
  (TransformerConfig(norm=("none",)), "placement", "with --norm=none"),
  (TransformerConfig(placement=("none",)), "norm", "with --placement=none"),
  (TransformerConfig(study="depth"), "steps", "does not train"),
  (TransformerConfig(study="depth"), "warmup_steps", "does not train"),
  (TransformerConfig(study="depth"), "devices", "one device"),
  (TransformerConfig(study="norms"), "norm", "has its own"),
  (TransformerConfig(study="norms"), "scale", "one size"),
  (TransformerConfig(), "gain", "without a --study"),
)


class UnusedTest(parameterized.TestCase):
  @parameterized.parameters(*NO_EFFECT)
  def test_a_flag_without_effect_is_refused(self, config, flag, reason):
    message = f"^--{flag} has no effect .*{reason}.*; leave it out.$"
    with self.assertRaisesRegex(RefusedError, message):
      refuse_unused(config, {"seed", flag})

  def test_flags_with_one_reason_are_refused_in_one_sentence(self):
    with self.assertRaisesRegex(
      RefusedError, "^--dataset and --sample have no effect.*leave them out.$"
    ):
      refuse_unused(TransformerConfig(task="copy"), {"sample", "dataset"})

  @parameterized.parameters(
    (Config(norm=("none", "ln")), {"tune"}),  # One seed compares nothing.
    (Config(norm=("none", "ln"), seeds=2), set()),
    (position.Config(), set()),
    (TransformerConfig(), {"gain", "rate_factor", "tuning_seeds"}),
    (
      TransformerConfig(norm=("none", "ln"), placement=("pre", "none")),
      {"gain", "rate_factor", "tuning_seeds"},
    ),
  )
  def test_every_other_flag_has_an_effect(self, config, unused):
    names = {field.name for field in dataclasses.fields(config)}
    others = names | {"data_dir", "sample", "devices"}
    refuse_unused(config, others - unused)
    for name in unused:
      with self.assertRaisesRegex(RefusedError, f"--{name} has no effect"):
        refuse_unused(config, {name})

  def test_a_study_compares_with_none(self):
    with self.assertRaisesRegex(flags.Error, "the first must be none"):
      parse("--norm=bn,none", defaults=moons.Config())
    norms = ("none", "ln")
    config, _ = parse("--norm=none,ln", defaults=moons.Config())
    self.assertEqual(config.norm, norms)
