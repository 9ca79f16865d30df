#!/usr/bin/env bash
# Install the programs that some tests ask for, where that can be done: as root on Debian or Ubuntu. A test whose program is
# missing is skipped and says so, so this never fails; it takes about a minute on a machine that has none of them.
#
# usage: tools/test_programs.sh
set -euo pipefail

# command and package
wanted="
chromium chromium
prometheus prometheus
dig dnsutils
victoria-metrics victoria-metrics
"

packages=()
while read -r command package; do
    if [ -n "$command" ] && ! command -v "$command" >/dev/null; then packages+=("$package"); fi
done <<<"$wanted"
if [ ${#packages[@]} -eq 0 ]; then echo "programs for tests: all there"; exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "programs for tests: ${packages[*]} missing and cannot be installed here; their tests will be skipped"
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -qq -y --no-install-recommends "$@" >/dev/null 2>&1; }
install "${packages[@]}" || { apt-get update -qq >/dev/null 2>&1 && install "${packages[@]}"; } || {
    # One package that is not to be had must not keep the others away.
    for package in "${packages[@]}"; do
        install "$package" || echo "programs for tests: $package cannot be installed here; its tests will be skipped"
    done
}
echo "programs for tests: asked for ${packages[*]}"
