"""All rows, in the order in which they are played."""

from __future__ import annotations

from tests.faults import upstream_rows
from tests.faults.row import Row

ROWS = tuple(
    row for module in (upstream_rows,) for row in vars(module).values() if isinstance(row, Row)
)
