"""Many values as one parameter: a statement takes at most 65,535, and what grows with fleet or store may be more."""

from collections.abc import Iterable

from sqlalchemy import ARRAY, ColumnElement, Text, any_, func, literal
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.selectable import TableValuedAlias


def is_any_of(
    column: InstrumentedAttribute[str] | InstrumentedAttribute[str | None], values: Iterable[str]
) -> ColumnElement[bool]:
    """SQL: the column is one of these texts."""
    return column == any_(_array(values))


def rows_of(**columns: Iterable[str]) -> TableValuedAlias:
    """SQL: a table with these columns of text, all of the same length."""
    arrays = [_array(values) for values in columns.values()]
    return func.unnest(*arrays).table_valued(*columns).render_derived()


def _array(values: Iterable[str]) -> ColumnElement[list[str]]:
    return literal([*values], ARRAY(Text))
