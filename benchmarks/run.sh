#!/usr/bin/env bash
# All benchmarks, one JSON line each. With a load program in $RINGKEEP_LOAD also throughput, and with the client endpoints
# of a three-node etcd in $ETCD_ENDPOINTS the ratios to it, A B A B.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

"$python" -P benchmarks/routing.py
"$python" -P benchmarks/placement.py
"$python" -P benchmarks/http_edge.py
"$python" -P benchmarks/metrics.py
"$python" -P benchmarks/console.py
"$python" -P benchmarks/cluster.py startup --runs 5
"$python" -P benchmarks/cluster.py idle --seconds 30
"$python" -P benchmarks/cluster.py failover --nodes 5 --runs 20
if [ -n "${RINGKEEP_LOAD:-}" ]; then
    "$python" -P benchmarks/cluster.py throughput --runs 3 --etcd "${ETCD_ENDPOINTS:-}"
    "$python" -P benchmarks/cluster.py cost --runs 3 --seconds 4
else
    echo '{"measure": "throughput", "skipped": "set RINGKEEP_LOAD to a load program"}'
fi
"$python" -P benchmarks/elastic.py scale
"$python" -P benchmarks/elastic.py handoffs
"$python" -P benchmarks/elastic.py rolling --documents 20000 --per-second 200 --steady-s 20
"$python" -P benchmarks/elastic.py leader-kill --documents 20000
"$python" -P benchmarks/handoff.py throughput --documents 12000 --size 16384
"$python" -P benchmarks/handoff.py throughput --documents 40000
"$python" -P benchmarks/waiting.py
