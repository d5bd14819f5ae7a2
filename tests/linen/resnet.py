"""ResNet-18 (https://arxiv.org/abs/1512.03385) in Linen and in PyTorch.

The names are those that PyTorch's users know: `layer1.0.downsample.1`.
"""

import functools

import flax.linen as nn
import numpy as np

from normjax.linen import BatchNorm, options_from_torch

STAGES = (1, 2, 4, 8)  # Multiples of the width.
CHANNELS = 3


def conv(features, size, stride=1):
  # PyTorch pads by one on both sides, also where Flax's SAME would not.
  return nn.Conv(
    features, (size, size), stride, padding=size // 2, use_bias=False
  )


def norm(features):
  return BatchNorm(**options_from_torch("BatchNorm2d", features))


class Block(nn.Module):
  features: int
  stride: int
  projected: bool  # Whether the shortcut is, because the shape changes.

  def setup(self):
    self.conv1 = conv(self.features, 3, self.stride)
    self.bn1 = norm(self.features)
    self.conv2 = conv(self.features, 3)
    self.bn2 = norm(self.features)
    if self.projected:
      self.downsample = [
        conv(self.features, 1, self.stride),
        norm(self.features),
      ]

  def __call__(self, x, train):
    y = nn.relu(self.bn1(self.conv1(x), not train))
    y = self.bn2(self.conv2(y), not train)
    if self.projected:
      convolution, norm = self.downsample
      x = norm(convolution(x), not train)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """ResNet-18, channels last."""

  width: int = 8
  classes: int = 10

  def setup(self):
    self.conv1 = conv(self.width, 7, 2)
    self.bn1 = norm(self.width)
    self.layer1, self.layer2, self.layer3, self.layer4 = (
      [
        Block(self.width * multiple, 1 + (multiple > 1), multiple > 1),
        Block(self.width * multiple, 1, False),
      ]
      for multiple in STAGES
    )
    self.fc = nn.Dense(self.classes)

  def __call__(self, x, train):
    x = nn.relu(self.bn1(self.conv1(x), not train))
    x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
    for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
      x = block(x, train)
    return self.fc(x.mean((1, 2)))


def shapes(width=8, classes=10):
  """Returns the shapes of PyTorch's state dict, written out by rule."""
  found = {}

  def add_norm(name, features):
    for key in ("weight", "bias", "running_mean", "running_var"):
      found[f"{name}.{key}"] = (features,)
    found[f"{name}.num_batches_tracked"] = ()

  def add_block(name, inputs, features):
    found[f"{name}.conv1.weight"] = (features, inputs, 3, 3)
    found[f"{name}.conv2.weight"] = (features, features, 3, 3)
    add_norm(f"{name}.bn1", features)
    add_norm(f"{name}.bn2", features)
    if inputs != features:
      found[f"{name}.downsample.0.weight"] = (features, inputs, 1, 1)
      add_norm(f"{name}.downsample.1", features)

  found["conv1.weight"] = (width, CHANNELS, 7, 7)
  add_norm("bn1", width)
  inputs = width
  for stage, multiple in enumerate(STAGES, 1):
    for block in range(2):
      add_block(f"layer{stage}.{block}", inputs, width * multiple)
      inputs = width * multiple
  found["fc.weight"], found["fc.bias"] = (classes, inputs), (classes,)
  return found


def images(seed, number=8):
  """Returns images with channels last, whose pixels are far from standard."""
  numbers = np.random.default_rng(seed)
  return numbers.normal(3, 2, (number, 32, 32, CHANNELS)).astype(np.float32)


@functools.cache
def torch_class():
  """Returns ResNet-18 as a class of PyTorch, channels first."""
  import torch
  from torch.nn import functional as F  # noqa: N812  The name everybody uses.

  class Block(torch.nn.Module):
    def __init__(self, inputs, features, stride):
      super().__init__()
      conv = functools.partial(torch.nn.Conv2d, bias=False)
      self.conv1 = conv(inputs, features, 3, stride, padding=1)
      self.bn1 = torch.nn.BatchNorm2d(features)
      self.conv2 = conv(features, features, 3, padding=1)
      self.bn2 = torch.nn.BatchNorm2d(features)
      self.downsample = torch.nn.Identity()
      if inputs != features:
        self.downsample = torch.nn.Sequential(
          conv(inputs, features, 1, stride), torch.nn.BatchNorm2d(features)
        )

    def forward(self, x):
      y = F.relu(self.bn1(self.conv1(x)))
      return F.relu(self.downsample(x) + self.bn2(self.conv2(y)))

  class ResNet(torch.nn.Module):
    def __init__(self, width=8, classes=10):
      super().__init__()
      self.conv1 = torch.nn.Conv2d(CHANNELS, width, 7, 2, 3, bias=False)
      self.bn1 = torch.nn.BatchNorm2d(width)
      inputs = width
      for stage, multiple in enumerate(STAGES, 1):
        features = width * multiple
        blocks = torch.nn.Sequential(
          Block(inputs, features, 1 + (multiple > 1)),
          Block(features, features, 1),
        )
        setattr(self, f"layer{stage}", blocks)
        inputs = features
      self.fc = torch.nn.Linear(inputs, classes)

    def forward(self, x):
      x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
      x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
      return self.fc(x.mean((2, 3)))

  return ResNet


def trained():
  """Returns PyTorch's model after a few steps of gradient descent."""
  import torch

  torch.manual_seed(0)
  model = torch_class()()
  optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
  for step in range(5):
    logits = model(as_torch(images(step)))
    labels = torch.arange(len(logits)) % 10
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(logits, labels).backward()
    optimizer.step()
  return model


def as_torch(images):
  """Returns a tensor with channels first."""
  import torch

  return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
