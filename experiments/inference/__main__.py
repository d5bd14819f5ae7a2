"""What folding batch norm into the layers before it does for inference.

    python -m experiments.inference

The ConvNet of many tutorials (three stages of 3x3 convolution, batch norm, ReLU
and 2x2 max pooling; a dense layer with batch norm and ReLU; a dense layer for
the classes), 16, 32 and 64 channels and 128 features, on images halved to
14x14; Adam at 0.001, batches of 64, 300 steps. `normjax.linen.fold` then makes
the batch norms part of the layers. About three minutes on two cores.

A seed determines the initial weights and the order of the images. The net of a
seed is timed in a new process of its own, folded and unfolded in turns, on one
test image and on 64: the median of 100 samples, each the mean of as many calls
as take 0.02 seconds. A call is `jax.jit(net.apply)` with the variables as
arguments, and waits for the result. Claims are judged on the times of the
unfolded over the folded net, paired by process. Without ten processes, or on a
machine with a load above 0.5 before the start, times are printed, and the
claims get no verdict. Before `--resume`, wait until the load has fallen.

The checks need no such machine: the same outputs on all test images, and the
size. A table also shows the operations of the compiled programs, as XLA counts
them in its cost analysis; this number depends on its version.

Sources: Ioffe & Szegedy, 2015, https://arxiv.org/abs/1502.03167, section 3.1:
in inference, batch norm is a linear transform. For the speed, there are numbers
of libraries that run one operation at a time: "about 30%" for a MobileNet in
https://github.com/PaddlePaddle/Paddle/issues/9629. XLA already fuses a norm
with the ReLU that follows, so less is to be expected here.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import optax

from experiments.inference import drawing, nets
from experiments.inference.nets import ARMS, SIZES, Sizes
from experiments.lab import latency, options, parsers, study
from experiments.lab.claims import Below, Check, Claim, Effect, Ratio
from experiments.lab.latency import Latencies
from experiments.lab.options import option
from experiments.lab.runs import machine
from experiments.lab.study import Run
from experiments.lab.tables import table
from experiments.lab.training import classification

RATE = 1e-3
MARGIN = 1.05

_TIMED: Mapping[str, Any] = {
  "source": "ours; Paddle's issue 9629 says about 30% of a MobileNet",
  "samples": ARMS,
  "analysis": Ratio(),
  "criterion": Effect(MARGIN, none=1),
  "form": ".3f",
  "pilot": "that 300 steps are enough; its times, of a busy machine, were not"
  " used, and the margin is older; the seeds 100 to 119 were judged before the"
  " claims became headlines",
}
BATCH_1 = Claim(
  "faster_at_1",
  "at batch 1, the compiled ConvNet takes at least {margin} times as long with"
  " batch norms as with them folded",
  quantity="time of a call with one image",
  spread=0.069,  # Of the first runs, with ten processes, on the digits.
  headline=True,
  why="a twentieth is the least that is worth a step of the deployment; the"
  " folded net has fewer arrays to pass and fewer loops to start",
  **_TIMED,
)
BATCH_64 = Claim(
  "faster_at_64",
  "at batch 64, the compiled ConvNet takes at least {margin} times as long with"
  " batch norms as with them folded",
  quantity="time of a call with 64 images",
  spread=0.027,
  headline=True,
  why="a twentieth is the least that is worth a step of the deployment; XLA"
  " fuses norms with what follows, and counts 3% of the operations in them",
  **_TIMED,
)
CLAIMS = (BATCH_1, BATCH_64)

_IOFFE = "Ioffe & Szegedy 2015, section 3.1"
LOGITS = Check(
  "same_logits",
  "folded and unfolded, the net gives the same logits on all test images",
  source=_IOFFE,
  quantity="largest difference over largest logit",
  criterion=Below(1e-5),
)
CLASSES = Check(
  "same_classes",
  "folded and unfolded, the net gives all test images the same classes",
  source=_IOFFE,
  quantity="images with another class",
  criterion=Below(1),
)
SMALLER = Check(
  "four_numbers",
  "folding removes four numbers for each channel of a norm: scale, bias, mean"
  " and variance",
  source=_IOFFE,
  quantity="numbers more or less than these",
  criterion=Below(1),
)
CHECKS = (LOGITS, CLASSES, SMALLER)


@dataclasses.dataclass(frozen=True)
class Config(options.HalvedImageConfig):
  """The net, its training, and how often it is timed."""

  seeds: int = option(
    10, "Number of seeds, each with a process of its own.", parsers.SEEDS
  )
  hidden: tuple[int, ...] = option(
    (16, 32, 64, 128),
    "Number of channels of each stage and, last, of features of the dense"
    " layer.",
    parsers.COUNTS,
  )
  steps: int = option(300, "Steps of the training.", parsers.COUNT)
  rounds: int = option(
    100, "Samples of each net at each batch size in a process.", parsers.COUNT
  )


def measure(config: Config, run: Run) -> dict[str, Any]:
  """Trains, folds, compares and times; prints, judges and draws."""
  load = machine.load()  # Before this run adds to it.
  images = run.load_images(config.dataset, halved=config.halve)
  if busy := latency.busy(load):
    run.tell(f"Times taken now will not be judged: {busy}.")
  inputs = np.asarray(images.prepare(images.test.inputs[: max(SIZES)]))
  model = nets.convnet(config.hidden)
  engine = classification.classifier(
    model, optax.adam(RATE), images, batch_size=64
  )
  trained, found = {}, []
  for seed in config.seed_numbers:
    train = functools.partial(nets.train, engine, seed, config.steps)
    trained[seed] = run.part(f"net_{seed}", train)
    both = nets.pair(model, trained[seed], inputs[:1])
    answers = nets.logits(both, images)
    found.append(nets.compared(answers, np.asarray(images.test.targets)))
  sizes = {arm: nets.sizes(*both[arm], inputs) for arm in ARMS}
  times = latency.measured(
    run,
    nets.programs,
    {seed: (config.hidden, flat, inputs) for seed, flat in trained.items()},
    load=load,
    rounds=config.rounds,
  )
  _show([one["error"] for one in found], sizes, times)
  run.check(LOGITS, np.max([one["difference"] for one in found]))
  run.check(CLASSES, np.max([one["changed"] for one in found]))
  run.check(SMALLER, nets.surplus(sizes, config.hidden))
  judge(times, run)
  title = f"A ConvNet with batch norms, unfolded and folded, {images.name}"
  drawing.draw(sizes, times, MARGIN, title, run)
  return {"sizes": sizes, "loads": times.loads, "doubt": times.doubt}


def judge(times: Latencies, run: Run) -> None:
  """Judges the claims, or says why the times decide nothing."""
  if times.doubt:
    print(f"No verdict on times: {times.doubt}.")
    return
  for claim, size in zip(CLAIMS, SIZES, strict=True):
    run.judge(claim, *(times.seconds[f"batch {size}"][arm] for arm in ARMS))


def _show(errors: list[float], sizes: Sizes, times: Latencies) -> None:
  """Prints what the nets are worth, how large they are and how fast."""
  print(f"Test errors of the nets: {min(errors):.2f} to {max(errors):.2f}%")
  rows = [
    [name, *(f"{sizes[arm][name]:,}" for arm in ARMS)]
    for name in sizes[ARMS[0]]
  ]
  print(table(rows, ["size", *ARMS]))
  rows = []
  for case, seconds in times.seconds.items():
    samples = [seconds[arm] for arm in ARMS]
    medians = [f"{1e6 * np.median(sample):.1f}" for sample in samples]
    rows.append([case, *medians, Ratio().estimate(*samples).text(".3f")])
  headers = [f"{arm} (µs)" for arm in ARMS]
  print(table(rows, ["time of a call", *headers, "unfolded / folded"]))


STUDY = study.Study(
  "inference",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  CHECKS,
  quick={"seeds": 2, "steps": 20, "rounds": 3, "hidden": (8, 8, 8, 16)},
  full={"halve": False, "hidden": (64, 128, 256, 512)},
  confirm={"seed": 120, "seeds": 20},
  sensitivity={"hidden": ((64, 128, 256, 512),)},
)

if __name__ == "__main__":
  study.main(STUDY)
