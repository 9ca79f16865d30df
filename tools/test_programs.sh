#!/usr/bin/env bash
# Install the programs that some tests ask for, where this may be done: root on Debian or a kin of it. None is needed:
# without one its tests are skipped, and say so. This never fails.
#
# prometheus brings promtool, which checks metrics and rules; chromium is the browser of the console's tests; dnsutils has dig.
set -u

wanted=()
command -v promtool >/dev/null && command -v prometheus >/dev/null || wanted+=(prometheus)
command -v chromium >/dev/null || wanted+=(chromium)
command -v dig >/dev/null || wanted+=(dnsutils)
if [ "${#wanted[@]}" -eq 0 ]; then echo "test programs: all here"; exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "test programs: ${wanted[*]} cannot be installed here, their tests will be skipped"
    exit 0
fi

export DEBIAN_FRONTEND=noninteractive
install() { timeout 300 apt-get install -qq -y --no-install-recommends "$1" >/dev/null 2>&1; }
updated=""
for package in "${wanted[@]}"; do
    if install "$package"; then echo "test programs: $package"; continue; fi
    if [ -z "$updated" ]; then updated=yes; timeout 120 apt-get update -qq >/dev/null 2>&1; fi
    if install "$package"; then echo "test programs: $package"; continue; fi
    echo "test programs: $package cannot be installed here, its tests will be skipped"
done
exit 0
