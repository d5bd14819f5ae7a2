"""Which variables of a Flax model correspond to which of a PyTorch model."""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from normjax.lifecycle.torch_layers import (
  Counterpart,
  Layers,
  after_feature_map,
  counterpart,
)

Shape = tuple[int, ...]
Path = tuple[str, ...]  # Names in Flax, from the outermost on.


class Entry(NamedTuple):
  """A variable and what corresponds to it in PyTorch.

  Attributes:
    path: Its names in Flax, the collection first.
    leaf: Its shape and dtype in Flax.
    key: Its name in the state dict.
    found: How its array is converted.
  """

  path: Path
  leaf: jax.ShapeDtypeStruct
  key: str
  found: Counterpart

  @property
  def torch_shape(self) -> Shape:
    """The shape in PyTorch."""
    empty = np.broadcast_to(np.float32(0), self.leaf.shape)
    return self.found.to_torch(empty).shape


class Plan(NamedTuple):
  """How the variables of a model correspond to a state dict.

  Attributes:
    entries: What both have.
    untracked: Statistics that PyTorch does not have.
    counters: Keys of `num_batches_tracked`, which Flax does not have.
  """

  entries: list[Entry]
  untracked: dict[Path, jax.ShapeDtypeStruct]
  counters: list[str]


def make_plan(
  layers: Layers,
  modules: Mapping[Path, Any],
  leaves: Mapping[Path, jax.ShapeDtypeStruct],
  names: Mapping[str, str] | None,
  feature_maps: Mapping[str, Sequence[int]] | None,
  untracked: Collection[str],
) -> Plan:
  """Returns what corresponds.

  Args:
    layers: Classes of layers of the front end.
    modules: The modules of the model by their paths.
    leaves: Shapes and dtypes of its variables by their paths, which begin with
      the collection.
    names, feature_maps, untracked: As in `variables_from_torch`.
  """
  owners = {path[1:-1] for path in leaves} | set(modules)
  prefixes = _prefixes(owners, names or {})
  maps = {key: tuple(shape) for key, shape in (feature_maps or {}).items()}
  here = {prefixes[path]: module for path, module in modules.items()}
  mapped = (*layers.dense, *layers.norms)
  _check_layers("feature_maps", maps, here, mapped)
  _check_layers("untracked", untracked, here, layers.batch_norms)
  plan = Plan([], {}, [])
  for path, leaf in leaves.items():
    collection, *_, name = path
    prefix, module = prefixes[path[1:-1]], modules.get(path[1:-1])
    if prefix in untracked and collection == "batch_stats":
      plan.untracked[path] = leaf
      continue
    found = counterpart(layers, module, name)
    if prefix in maps and not (
      isinstance(module, layers.dense) and name == "bias"
    ):
      _check_features(prefix, maps[prefix], leaf, name)
      found = after_feature_map(found, maps[prefix])
    plan.entries.append(Entry(path, leaf, _joined(prefix, found.name), found))
    if isinstance(module, layers.batch_norms) and name == "var":
      plan.counters.append(_joined(prefix, "num_batches_tracked"))
  _check_unique(plan.entries)
  return plan


def _prefixes(
  paths: Iterable[Path], names: Mapping[str, str]
) -> dict[Path, str]:
  """Returns the prefix in PyTorch of each module, by its path in Flax."""
  known = {path: prefix for prefix, path in names.items()}
  inside = {"/".join(path[:end]) for path in paths for end in _lengths(path)}
  wrong = [path for path in names.values() if path not in inside]
  if wrong or len(known) < len(names):
    raise ValueError(
      "names must lead from prefixes in PyTorch to different modules in Flax,"
      f" got {dict(names)}. The model has {', '.join(sorted(inside))}."
    )
  prefixes = {}
  for path in paths:
    # The longest part that has a name, if any has, and what is left.
    end = next(
      (end for end in _lengths(path) if "/".join(path[:end]) in known), 0
    )
    prefix = known.get("/".join(path[:end]), "")
    prefixes[path] = _joined(prefix, *map(_torch_name, path[end:]))
  return prefixes


def _lengths(path: Path) -> range:
  return range(len(path), -1, -1)


def _torch_name(name: str) -> str:
  """Returns `layer1.0` for `layer1_0`, a module in a list of modules."""
  return re.sub(r"_(?=\d+(_\d+)*$)", ".", name)


def _joined(*names: str) -> str:
  return ".".join(filter(None, names))


def _check_layers(
  argument: str,
  prefixes: Iterable[str],
  layers: Mapping[str, Any],
  kinds: tuple[type, ...],
) -> None:
  """Raises ValueError if an argument names what is no layer of these kinds."""
  fitting = [key for key, layer in layers.items() if isinstance(layer, kinds)]
  wrong = [prefix for prefix in prefixes if prefix not in fitting]
  if wrong:
    raise ValueError(
      f"{argument} may have the names in PyTorch of {', '.join(fitting)}, got"
      f" {', '.join(wrong)}."
    )


def _check_features(
  prefix: str, shape: Shape, leaf: jax.ShapeDtypeStruct, name: str
) -> None:
  """Raises ValueError if a feature map has not as many features as a layer."""
  features = leaf.shape[0] if name == "kernel" else math.prod(leaf.shape)
  if math.prod(shape) != features:
    raise ValueError(
      f"{prefix} has {features} features in the model, but its feature"
      f" map {shape} has {math.prod(shape)}. Give the shape [channels, ...] of"
      " the map before it is flattened, without the batch."
    )


def _check_unique(entries: Sequence[Entry]) -> None:
  """Raises ValueError if variables would have the same key."""
  paths: dict[str, list[str]] = {}
  for entry in entries:
    paths.setdefault(entry.key, []).append("/".join(entry.path))
  same = [f"{key}: {', '.join(p)}" for key, p in paths.items() if len(p) > 1]
  if same:
    raise ValueError(
      f"Variables have the same key in PyTorch ({'; '.join(same)}). Tell them"
      " apart with names."
    )
