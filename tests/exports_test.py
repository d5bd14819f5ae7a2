"""The public names, and what `help` shows of them."""

import importlib
import inspect
import pydoc

from absl.testing import parameterized

import normjax

MODULES = (
  ("normjax",),
  ("normjax.functional",),
  ("normjax.linen",),
  ("normjax.native",),
)


class ExportsTest(parameterized.TestCase):
  @parameterized.parameters(*MODULES)
  def test_all_are_the_public_names(self, name):
    module = importlib.import_module(name)
    public = {
      name for name, value in vars(module).items()
      if not name.startswith("_") and not inspect.ismodule(value)
    }  # fmt: skip
    self.assertCountEqual(module.__all__, public)

  @parameterized.parameters(*MODULES)
  def test_help_shows_them(self, name):
    module = importlib.import_module(name)
    text = pydoc.plain(pydoc.render_doc(module))
    for public in module.__all__:
      kind = "class " if inspect.isclass(getattr(module, public)) else ""
      self.assertRegex(text, rf"(?m)^    {kind}{public}\(")

  def test_help_shows_the_version(self):
    text = pydoc.plain(pydoc.render_doc(normjax))
    self.assertIn(f"VERSION\n    {normjax.__version__}\n", text)
