"""Batch norms that keep running statistics for each domain or time step."""

from flax.typing import Dtype

from normjax.descriptions.batch import AnyBatchNorm
from normjax.descriptions.norm import Shape, Statistic, description


@description
class RowBatchNorm(AnyBatchNorm):
  """Batch norm with rows of running statistics; a call uses one of them."""

  # What a call names its row, and the field that tells how many there are.
  row_argument = ""
  rows_field = ""

  def statistics(self, features: Shape, dtype: Dtype) -> dict[str, Statistic]:
    """As for all batch norms, with the rows as the first axis."""
    return super().statistics((self.rows(), *features), dtype)

  def rows(self) -> int:
    """Returns the number of rows.

    Raises:
      ValueError: it is not a positive integer.
    """
    number = getattr(self, self.rows_field)
    if not isinstance(number, int) or number < 1:
      raise ValueError(
        f"{self.rows_field} must be a positive integer, got {number!r}. It is"
        " the number of rows of the running statistics."
      )
    return number
