"""Loads that running answers do not feel: a thread of every worker reads the adapter, the step loop only takes it over.

`loads` and `hints` run in the server, `desk`, `engine_loras`, `adapter_file` and `pace` in the engine's workers.
"""
