#!/usr/bin/env bash
# Rewrites the hash-locked requirement files. No file that records download addresses: see CONTRIBUTING.md.
set -euo pipefail
cd "$(dirname "$0")"
lock() { uv pip compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --python-version 3.11 "$@"; }
lock --universal app.in -o app.txt
lock --universal dev.in -o dev.txt
# torch's CPU wheel is looked for where pip looks for it (PIP_FIND_LINKS), or on the index given in UV_INDEX.
export UV_FIND_LINKS="${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}"
lock --override engine-overrides.txt engine.in -o engine.txt
