"""Metrics in Prometheus' form: what there is (`catalog`), and how a process makes and shows its own."""
