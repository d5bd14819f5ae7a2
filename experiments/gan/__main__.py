"""Which batch norms a GAN needs, and which ones break it.

    python -m experiments.gan

A small DCGAN makes handwritten digits. The generator turns 32 normal numbers
into an image: a dense layer to 2x2 pixels of 16 channels, and two transposed
convolutions (4x4, stride 2), with ReLU, and tanh at the end. The discriminator
tells real images from generated ones: two convolutions (4x4, stride 2), with
leaky ReLU, and a dense layer. MNIST is halved to 14x14 and gets a black frame
to 16x16, and the generator then begins at 4x4; scikit-learn's digits have 8x8.

Each of 500 steps updates the discriminator, then the generator, on new noise
and 64 images. The losses are cross-entropies; the generator's is the one that
does not saturate. Adam with b1 0.5 for both, at the same learning rate. Kernels
begin as Flax draws them, for all arms alike, not with the paper's standard
deviation of 0.02. Real and generated images go through the discriminator as two
batches, which is the practice: in one batch, batch norm would mix them. With
two, each batch is standardized by itself, and the discriminator cannot see a
difference of their means after a batch norm.

Arms: no norm; batch norm in the hidden layers of the generator (G); in those of
G and of the discriminator (D), which is DCGAN; also in the output layer of G
and the input layer of D, which is "all layers"; DCGAN with batch norm on the
logits of D too ("last"); group norm of 8 groups in G; and batch norm in G with
spectral norm in D. The last two have no claim: so short a training does not do
them justice. DCGAN is trained once more with other kernels, batches and noise
on the same images, which is the control, and "all layers" also at the learning
rate of DCGAN.

No loss says how good samples are. So a classifier, an MLP of 128 and 32 units,
is trained on the training images of each seed. After every 25 steps it sees
1,000 samples of the generator. Measured are:

  * the Fréchet distance (FD) of its 32 features between samples and test
    images: 0 if their means and covariances are equal. On the digits, training
    images have 1 to 2, and uniform noise has more than 100;
  * the entropy of the classes it sees in the samples (log 10 = 2.3 nats if all
    are as frequent), and how many classes have at least 1% of the samples. Both
    fall if the generator collapses to a few images;
  * how far the images of the same noise move in 25 steps: the mean square of
    the change, over that between two samples. It is 0 if nothing moves, 1 if
    the images are unrelated, and more if all samples move together.

Samples change from step to step. So the distance "at the end" is the geometric
mean of the last five measurements. All this uses running
statistics. At the end the distance is also taken with statistics re-estimated
on 50 batches of noise, and with those of the batch of samples.

A seed determines which images are for training, validation and test, the
classifier, the initial kernels, the order of the images and all noise. For
every arm the learning rate is chosen from five or more half decades by the
distance at the end to validation images, of other seeds. Lanes are trained one
after the other. About three minutes on two cores with the digits, seven with
MNIST.

Sources: Radford et al., 2015, https://arxiv.org/abs/1511.06434, section 3:
batch norm "proved critical to get deep generators to begin learning, preventing
the generator from collapsing all samples to a single point"; "directly applying
batchnorm to all layers however, resulted in sample oscillation and model
instability", which they avoided by leaving it out of the generator's output
layer and the discriminator's input layer. They give no numbers for this, and
their nets are deeper and for 64x64 pixels. The distance: Heusel et al., 2017,
https://arxiv.org/abs/1706.08500. Spectral norm: Miyato et al., 2018,
https://arxiv.org/abs/1802.05957, with far longer trainings.
"""

import functools
from collections.abc import Mapping

import numpy as np

from experiments.gan import drawing, training, yardstick
from experiments.gan.arms import ARMS
from experiments.gan.claims import (
  AGAIN,
  CLAIMS,
  EQUAL,
  distance,
  judge,
  movement,
)
from experiments.gan.config import Config
from experiments.gan.yardstick import Yardstick
from experiments.lab import study, tuning
from experiments.lab.data.arrays import Pool
from experiments.lab.errors import RefusedError
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table

RATES = tuning.half_decades(-7, -3)
TITLES = {
  **{name: arm.title for name, arm in ARMS.items()},
  AGAIN: "bn in G and D, again",
  EQUAL: "bn in all layers, rate of G and D",
}


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  if config.every < 1:
    raise RefusedError(
      f"{config.checkpoints} measurements do not fit into {config.steps} steps;"
      " use more --steps or fewer --checkpoints."
    )
  pool = run.load_pool(config.dataset, halved=config.halve)
  engines = {
    name: training.build(arm, config, pool) for name, arm in ARMS.items()
  }
  seeds = [*tuning.SEEDS[: config.tuning_seeds], *config.seed_numbers]
  trained = run.part(
    "yardstick", functools.partial(yardstick.train, pool, seeds)
  )
  judges = {
    seed: Yardstick(trained, number, pool.num_classes)
    for number, seed in enumerate(seeds)
  }
  found: dict[str, Parts] = {}
  for name, engine in engines.items():
    train = functools.partial(training.train, engine, config, pool, judges)
    found[name] = tuning.tuned(run, name, train, RATES, config)
  rate = float(found["both"]["rate"])
  for name, arm in ((EQUAL, "all"), (AGAIN, "both")):
    train = functools.partial(
      training.train,
      engines[arm],
      config,
      pool,
      judges,
      again=name == AGAIN,
    )
    found[name] = tuning.at_rate(run, name, train, rate, config.seed_numbers)
  _show(found, trained, config)
  judge(found, run)
  drawing.draw(found, TITLES, _real(pool, config), config, pool.name, run)


def _real(pool: Pool, config: Config) -> np.ndarray:
  """Returns test images of every seed, bytes `[seeds, n, ...]`."""
  test = pool.split(config.seed_numbers).test
  return np.stack(
    [
      np.asarray(255 * pool.prepare(test.lane(number).inputs), np.uint8)
      for number in range(config.seeds)
    ]
  )


def _show(found: Mapping[str, Parts], trained: Parts, config: Config) -> None:
  accuracy = trained["accuracy"][-config.seeds :]
  print(f"The classifiers know {shown(accuracy, '.1f')}% of the test images.")
  rows = [
    [
      TITLES[name],
      f"{part['rate']:.2g}",
      shown(distance(part), ".1f"),
      shown(part["distances"][:, -1], ".1f"),
      shown(part["reestimated"], ".1f"),
      shown(part["batch"], ".1f"),
      f"{part['hits'][:, -1].mean():.1f}",
      f"{part['entropies'][:, -1].mean():.2f}",
      f"{np.median(movement(part)):.2f}",
    ]
    for name, part in found.items()
  ]
  headers = ["norms", "rate", "FD at the end", "last FD", "re-estimated"]
  headers += ["of the batch", "classes", "entropy", "moved"]
  print(table(rows, headers))


STUDY = study.Study(
  "gan",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "steps": 8,
    "checkpoints": 4,
    "samples": 100,
    "hidden": (8,),
  },
  full={
    "halve": False,
    "hidden": (256, 128),
    "noise": 100,
    "batch_size": 128,
    "steps": 10_000,
  },
  confirm={"seed": 100, "seeds": 20},
)

if __name__ == "__main__":
  study.main(STUDY)
