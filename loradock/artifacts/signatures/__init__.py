"""Signatures of adapters by OpenSSF model signing: making them, and judging them."""
