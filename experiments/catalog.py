"""The studies, how each is run, and what each declares."""

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.lab.declaration import Study


class Entry(NamedTuple):
  """How a study is run.

  Attributes:
    module: Name of the module in this folder.
    flags: Flags that select the study.
    data: What it trains on: "images", "text", or "" if there is no choice.
    whole: More flags, except with --quick and --confirm.
    declared_in: The module with its `STUDY`, if that is another one.
    application: Whether it is of what norms are used for; those are listed
      last, and docs/applications.md has their models.
  """

  module: str
  flags: tuple[str, ...] = ()
  data: str = "images"
  whole: tuple[str, ...] = ()
  declared_in: str = ""
  application: bool = False

  @property
  def command(self) -> str:
    return " ".join(["python -m", f"experiments.{self.module}", *self.flags])


# Short and exact studies first.
ENTRIES: Mapping[str, Entry] = {
  "internals": Entry("internals", data=""),
  "activations": Entry("activations"),
  "moons": Entry("moons", data=""),
  "mnist": Entry(
    "mnist",
    whole=("--norm=none,ln,rms,bn,gn", "--seeds=5", "--resplit", "--tune"),
  ),
  **{
    name: Entry(name)
    for name in (
      "scale_invariance", "position", "lr_range", "deep_sigmoid", "smoothness",
      "batch_size", "regularize", "convnet", "transfer", "inference",
      "whitening",
    )
  },
  **{
    f"transformer_{name}": Entry(
      "transformer",
      (f"--study={name}",),
      data="text",
      declared_in=f"transformer.{name}",
    )
    for name in ("warmup", "warmup_tuned", "depth", "norms", "batch_norm")
  },
  "style": Entry("style", data="", application=True),
  "online": Entry("online", application=True),
  "policy": Entry("policy", data="", application=True),
  "segmentation": Entry("segmentation", data="", application=True),
  "gan": Entry("gan", application=True),
  **{
    f"recurrent_{name}": Entry(
      "recurrent",
      (f"--study={name}",),
      data=data,
      declared_in=f"recurrent.{name}",
      application=True,
    )
    for name, data in (("rows", "images"), ("adding", ""))
  },
  "detection": Entry("detection", application=True),
}  # fmt: skip

APPLICATIONS = tuple(
  name for name, entry in ENTRIES.items() if entry.application
)


def arguments(
  name: str,
  *,
  dataset: str = "auto",
  text: str = "auto",
  quick: bool = False,
  confirm: bool = False,
  sensitivity: bool = False,
) -> list[str]:
  """Returns the flags of a study, without the flags of its files.

  Args:
    name: Name of the study.
    dataset: The data if it trains on images.
    text: The data if it trains on text.
    quick, confirm, sensitivity: Whether to give these flags.
  """
  entry = ENTRIES[name]
  presets = [*["--confirm"] * confirm, *["--quick"] * quick]
  presets += ["--sensitivity"] * sensitivity
  chosen = [*entry.flags, *(presets or entry.whole)]
  data = {"images": dataset, "text": text}.get(entry.data, "auto")
  if data != "auto":
    chosen.append(f"--dataset={data}")
  return chosen


def declared(name: str) -> Study[Any]:
  """Returns what a study declares: its claims, checks and settings."""
  entry = ENTRIES[name]
  module = f"experiments.{entry.declared_in or entry.module}"
  found = importlib.util.find_spec(module)
  if found is not None and found.submodule_search_locations:
    module += ".__main__"
  study: Study[Any] = importlib.import_module(module).STUDY
  return study
