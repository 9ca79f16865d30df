#!/usr/bin/env bash
# Build both images from this tree: ringkeep-node and ringkeep-operator, tagged with the version and with "dev".
#
# usage: tools/images.sh [--offline]
#
# BASE, PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_TRUSTED_HOST and the proxy variables are handed on if they are set.
# --offline: the wheels are downloaded here, with this machine's pip, where the builds themselves have no network.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v docker >/dev/null || { echo "images: docker is needed for this" >&2; exit 1; }
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
revision=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)

rm -rf build/wheels
if [ "${1:-}" = --offline ]; then
    for part in build node operator; do
        .venv/bin/python -m pip download --quiet --require-hashes --no-deps --only-binary=:all: --python-version 3.11 \
            --dest build/wheels -r "requirements-$part.txt"
    done
fi

arguments=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision")
for name in BASE PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST \
    HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
    if [ -n "${!name:-}" ]; then arguments+=(--build-arg "$name"); fi
done
for part in node operator; do
    started=$SECONDS
    docker build --quiet "${arguments[@]}" -f "$part/Dockerfile" -t "ringkeep-$part:$version" -t "ringkeep-$part:dev" . \
        >/dev/null
    printf 'images: ringkeep-%s:%s, %s s\n' "$part" "$version" "$((SECONDS - started))"
done
