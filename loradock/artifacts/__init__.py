"""Adapters as bytes: where they come from, whether they can be served, where they are kept. Knows only `core`."""
