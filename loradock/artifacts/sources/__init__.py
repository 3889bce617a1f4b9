"""Where adapters are published from."""
