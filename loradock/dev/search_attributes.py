"""The project's search attributes as the embedded Temporal server wants them at its start."""

from workflows.search_attributes import ALL

_TYPES = {
    "TEXT": "Text",
    "KEYWORD": "Keyword",
    "INT": "Int",
    "DOUBLE": "Double",
    "BOOL": "Bool",
    "DATETIME": "Datetime",
    "KEYWORD_LIST": "KeywordList",
}


def search_attribute_types() -> list[tuple[str, str]]:
    """(name, type) of every search attribute, type as Temporal's CLI knows it (`Keyword`, `Int` …)."""
    return [(key.name, _TYPES[key.indexed_value_type.name]) for key in ALL]
