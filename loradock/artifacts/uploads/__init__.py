"""Uploaded bytes on their way into a publish: a place for each kind of object store."""
