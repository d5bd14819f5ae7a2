"""PyTorch in `benchmarks.norms`: eager, and compiled by `torch.compile`."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.machine import torch_device
from benchmarks.norm_cases import EPSILON, MOMENTUM, Case, make_inputs
from experiments.lab.timing import Run

Step = Callable[[], Any]  # Returns all outputs of a step.


def _tensor(values: np.ndarray, dtype: str) -> Any:
  import torch

  return torch.tensor(
    values, dtype=getattr(torch, dtype), device=torch_device()
  )


def _function(case: Case) -> Callable[..., Any] | None:
  """Returns the norm as a function of `(x, *params)`, or None.

  In PyTorch, channels are the second axis. An array with channels last in
  memory is passed as a transposed view, which is PyTorch's channels-last
  format.
  """
  from torch.nn import functional as F  # noqa: N812  The name everybody uses.

  if case.norm in ("layer", "rms"):
    if case.layout == "first":
      return None
    norm = F.layer_norm if case.norm == "layer" else F.rms_norm
    return lambda x, *params: norm(x, x.shape[-1:], *params, eps=EPSILON)
  if case.norm == "group":
    return lambda x, *params: F.group_norm(x, case.groups, *params, eps=EPSILON)
  if case.norm == "instance":
    return lambda x, scale, bias: F.instance_norm(
      x, weight=scale, bias=bias, eps=EPSILON
    )
  inputs = make_inputs(case)
  mean, var = (_tensor(v, "float32") for v in (inputs.mean, inputs.var))
  return lambda x, *params: F.batch_norm(
    x,
    mean,
    var,
    *params,
    training=case.norm == "batch",
    momentum=1 - MOMENTUM,  # In PyTorch, the share of the new statistic.
    eps=EPSILON,
  )


def make_step(mode: str, case: Case, *, compiled: bool) -> Step | None:
  """Returns a step, or None if PyTorch does not offer it.

  Args:
    mode: One of `norm_programs.MODES`.
    case: The case, which determines the inputs.
    compiled: Whether to use `torch.compile`, which has no forward mode.

  Returns:
    A function that returns y, or `(y, gradients)`, or `(y, tangent)`.
  """
  import torch

  function = _function(case)
  if function is None or (compiled and mode == "jvp"):
    return None
  if compiled:
    torch.compiler.reset()  # Its cache has room for few programs per function.
    function = torch.compile(function, dynamic=False)
  inputs = make_inputs(case)
  x, cotangent = (
    _tensor(values, case.dtype) for values in (inputs.x, inputs.cotangent)
  )
  if case.layout == "last" and case.norm not in ("layer", "rms"):
    x, cotangent = (value.movedim(-1, 1) for value in (x, cotangent))
  # Batch norm takes float32 parameters for any x, others those of x's dtype.
  dtype = "float32" if case.norm.startswith("batch") else case.dtype
  params = tuple(_tensor(param, dtype) for param in inputs.params)

  if mode == "forward":

    def forward() -> Any:
      with torch.inference_mode():
        return function(x, *params)

    return forward
  if mode == "grad":
    arguments = tuple(value.requires_grad_() for value in (x, *params))

    def gradient() -> Any:
      y = function(*arguments)
      return y, torch.autograd.grad(y, arguments, cotangent)

    return gradient
  return functools.partial(
    torch.func.jvp, function, (x, *params), (cotangent, *params)
  )


def _captured(step: Step) -> Step:
  """Returns the step as a CUDA graph, which leaves out the work of Python."""
  import torch

  # What is captured must have run before, on a stream of its own.
  stream = torch.cuda.Stream()
  with torch.cuda.stream(stream):
    for _ in range(3):
      step()
  torch.cuda.current_stream().wait_stream(stream)
  graph = torch.cuda.CUDAGraph()
  with torch.cuda.graph(graph):
    step()
  return graph.replay


def make_run(
  mode: str, timing: str, case: Case, *, compiled: bool
) -> Run | None:
  """Returns a program to time, or None if PyTorch does not offer it.

  Args:
    mode, case, compiled: As in `make_step`.
    timing: `call` waits for the device after each step, `loop` after all steps.
  """
  import torch

  step = make_step(mode, case, compiled=compiled)
  if step is None:
    return None
  synchronize = lambda: None
  if torch_device() == "cuda":
    synchronize = torch.cuda.synchronize
    if timing == "loop":
      step = _captured(step)

  def run(steps: int) -> None:
    for _ in range(steps):
      step()
      if timing == "call":
        synchronize()
    synchronize()

  return run
