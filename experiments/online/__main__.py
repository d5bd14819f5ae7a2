"""Learning from a stream, one example at a time, while the stream changes.

    python -m experiments.online

Every example is first predicted and then learned, with one step of SGD ("test,
then train"). The share of wrong predictions is the prequential error: an image
is new when it is predicted. (The digits are few: the 1,437 of a seed come nine
times, each time all of them before one comes again.) A prediction is made in
evaluation mode, because a single answer is asked for: batch norm then has the
statistics of earlier examples.

The stream has 13 segments of 1,000 images of digits. After the first one, each
begins with a change, in turns: "light", contrast and brightness jump; "order",
five of the ten classes come first, then the others; "drift", contrast and
brightness change gradually; "classes", every digit has the name of another one.
A grey value v from 0 to 1 is v by day, 0.4 v at dusk and 0.4 + 0.4 v in fog.
The jumps are from day to fog, from dusk to day (contrast only) and from fog to
dusk (brightness only). The error over the whole stream says what works; that of
the first 100 examples after a change, which norm adapts fastest.

Two nets. "Vectors": an MLP 64-64-64-10 (196-64-64-10 on halved MNIST), in which
a channel has one value for an example; batch norm, batch renorm and instance
norm refuse to train on that, and their messages are printed. "Maps": layers of
32 and 32 channels that all 2x2 patches of an image share, and a dense layer for
the classes; a channel has 16 values for an image (49 on MNIST).

Norms at a batch of one: none; layer norm; group norm with 8 groups; with maps
also instance norm, batch norm, which trains as instance norm and predicts with
running statistics, and batch renorm, whose limits rise from example 100 to 500;
batch norm by accumulated statistics (nets.py), which an example joins before it
is standardized, in training too. Their running statistics have momentum 0.99.
For comparison, three arms get batches of 20 of the same stream, which they
predict, then learn: batch norm (momentum 0.9), and layer norm (vectors) and
instance norm (maps), which show what the size of the batch does without batch
norm. About three minutes on two cores.

After the stream, the nets are tested on other images, with running statistics
and with those re-estimated on the last segment.

A seed determines which images come in which order, the names of the classes,
and the initial weights. For every arm the learning rate is the one of five or
more half decades with the lowest mean loss of the predictions, of other seeds.
SGD has no momentum.

Sources: Ioffe, 2017, https://arxiv.org/abs/1702.03275: batch renorm, for small
batches and for those that are not drawn independently; batches of 4 are its
smallest. Ba et al., 2016, https://arxiv.org/abs/1607.06450, table 1: layer norm
does not change if an example is rescaled, but does if it is shifted. Liao et
al., 2016, https://arxiv.org/abs/1610.06160, and Chiley et al., 2019,
https://arxiv.org/abs/1905.05894: accumulated statistics for learning without
batches; the latter also corrects the gradient, which is left out here. None of
them has a stream that changes.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from experiments.lab import study, tuning
from experiments.lab.errors import RefusedError
from experiments.lab.statistics import shown
from experiments.lab.study import Parts, Run
from experiments.lab.tables import table
from experiments.online import drawing, errors
from experiments.online.claims import (
  CLAIMS,
  NONE_AGAIN,
  REFUSED,
  SAME,
  Arm,
  judge,
)
from experiments.online.training import (
  AFTER,
  ARMS,
  MANY,
  MORE,
  NORMS,
  Config,
  rates,
  refused,
  train,
)
from normjax.linen import make_norm


def measure(config: Config, run: Run) -> None:
  """Trains the arms, prints, judges and draws."""
  if config.segment % MANY:
    raise RefusedError(
      f"--segment={config.segment} is not a multiple of {MANY}, the larger"
      " batch; choose one that is."
    )
  pool = run.load_pool(config.dataset, test=2_000, halved=config.halve)
  messages = refused(config, pool)
  run.check(REFUSED, len(messages))
  for norm, message in messages.items():
    print(f"  {ARMS[norm].partition(',')[0]}: {message}")
  run.check(SAME, difference())
  found: dict[Arm, Parts] = {}
  for net, norms in NORMS.items():
    for norm in norms:
      if norm in MORE and not config.more:
        continue
      part = functools.partial(train, net, norm, config, pool)
      found[net, norm] = tuning.tuned(
        run, f"{net}_{norm}", part, rates(norm), config
      )
  found["vectors", NONE_AGAIN] = tuning.at_rate(
    run,
    "vectors_none_again",
    functools.partial(train, "vectors", "none", config, pool, again=True),
    float(found["vectors", "none"]["rate"]),
    config.seed_numbers,
  )
  _show(found)
  judge(found, run)
  drawing.stream(found, config, pool.name, run)
  drawing.changes(found, config, pool.name, run)


def difference() -> float:
  """Returns by how much batch norm of one image differs from instance norm."""
  x = jax.random.normal(jax.random.key(0), (1, 16, 32))
  bn, instance = (
    make_norm(name, train=True, epsilon=1e-5) for name in ("bn", "in")
  )
  ours, _ = bn.apply(bn.init(jax.random.key(0), x), x, mutable=["batch_stats"])
  theirs = instance.apply(instance.init(jax.random.key(0), x), x)
  return float(jnp.abs(ours - theirs).max())


def _show(found: Mapping[Arm, Parts]) -> None:
  for net, norms in NORMS.items():
    rows = [
      [
        ARMS[norm],
        f"{arm['rate']:.2g}",
        shown(errors.whole(arm), ".1f"),
        f"{errors.before(arm, 'light').mean():.1f}",
        *(
          shown(errors.after(arm, kind), ".1f")
          for kind in ("light", "order", "drift", "classes")
        ),
        shown(arm["error"], ".1f"),
        shown(arm["reestimated"], ".1f"),
      ]
      for norm in norms
      if (net, norm) in found
      for arm in [found[net, norm]]
    ]
    headers = ["norm", "best rate", "whole stream", "before light", "light"]
    headers += ["order", "drift", "classes", "test", "test, re-estimated"]
    print(
      f"\nErrors (%) of the net of {net}: of the whole stream, of the {AFTER}"
      f" examples before a jump of the light and after each kind of change, and"
      f" after the stream\n{table(rows, headers)}"
    )
  print()


STUDY = study.Study(
  "online",
  __doc__,
  measure,
  Config(),
  CLAIMS,
  (REFUSED, SAME),
  quick={
    "seeds": 2,
    "tuning_seeds": 1,
    "segment": 200,
    "hidden": (16,),
    "channels": (8,),
    "more": False,
  },
  full={
    "segment": 5_000,
    "hidden": (256, 256),
    "channels": (64, 64),
    "halve": False,
  },
  confirm={"seed": 100, "seeds": 20},
)

if __name__ == "__main__":
  study.main(STUDY)
