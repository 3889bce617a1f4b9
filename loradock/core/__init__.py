"""Words that every room speaks: names, ids, errors, settings, and the models that cross rooms."""
