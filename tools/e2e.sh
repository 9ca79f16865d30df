#!/usr/bin/env bash
# The end-to-end tests on a kind cluster: make it, build and load the images, run tests/e2e, delete it.
#
# usage: tools/e2e.sh [PYTEST ARGUMENTS]
#
# E2E_CLUSTER=current uses the cluster of the current context instead, which must have the images already or be one of
# kind; nothing but what the tests made is deleted then. E2E_KEEP=1 leaves the kind cluster running. E2E_RUNS=5 runs
# everything so often, for p95 figures; E2E_MEASURE=1 only what has a number to keep: about six minutes a run. E2E_RARE=1
# only what happens rarely and takes long to wait for, which a usual run leaves out.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'e2e: %s\n' "$*" >&2; exit 1; }
for tool in kubectl helm; do command -v "$tool" >/dev/null || fail "$tool is needed for this"; done

name=ringkeep-e2e
if [ "${E2E_CLUSTER:-}" = current ]; then
    context=$(kubectl config current-context)
    case $context in kind-*) name=${context#kind-} ;; *) name="" ;; esac
else
    for tool in kind docker; do command -v "$tool" >/dev/null || fail "$tool is needed for this"; done
    export KUBECONFIG
    KUBECONFIG=$(mktemp)
    trap 'if [ -z "${E2E_KEEP:-}" ]; then kind delete cluster --name "$name" --quiet || true; rm -f "$KUBECONFIG"; fi' EXIT
    started=$SECONDS
    # What a run that was killed, or kept with E2E_KEEP, has left would be in the way.
    kind delete cluster --name "$name" --quiet
    kind create cluster --name "$name" --config deploy/kind.yaml --wait 3m --quiet
    kubectl wait --for=condition=Ready node --all --timeout=120s >/dev/null
    printf 'e2e: kind cluster of 4 nodes, %s s\n' "$((SECONDS - started))"
fi

if [ -n "$name" ]; then
    bash tools/images.sh
    started=$SECONDS
    kind load docker-image ringkeep-node:dev ringkeep-operator:dev --name "$name" >/dev/null 2>&1
    printf 'e2e: images loaded, %s s\n' "$((SECONDS - started))"
fi

rm -f .ci/out/e2e.json
output=$(mktemp) code=0
marks="e2e and not rare"
if [ -n "${E2E_MEASURE:-}" ]; then marks="e2e and measured"; fi
if [ -n "${E2E_RARE:-}" ]; then marks="e2e and rare"; fi
.venv/bin/python -m pytest -q --color=no -s -rs --durations=10 -m "$marks" tests/e2e "$@" 2>&1 | tee "$output" || code=$?
count() { grep -E ' in [0-9.]+s' "$output" | tail -n 1 | grep -oE "[0-9]+ ($1)\\b" | awk '{ sum += $1 } END { print sum + 0 }' || true; }
passed=$(count passed) failed=$(count 'failed|errors?') skipped=$(count skipped)
# A pytest that crashed has no failed test to show.
if [ "$code" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
rm -f "$output"
printf 'e2e: %s s in all\n' "$SECONDS"
summary="$passed passed, $failed failed"
if [ "$skipped" -gt 0 ]; then summary="$summary, $skipped skipped"; fi
printf '%s\n' "$summary"
exit "$code"
