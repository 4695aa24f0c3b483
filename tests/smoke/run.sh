#!/usr/bin/env bash
# Runs the official Python package against `miroir up`, which it starts on a free port and stops.
# Environment: MIROIR_BIN (the binary), CARGO_TARGET_DIR (where the virtual environment goes);
# MEILI_URL and MEILI_KEY (a server that is running already: nothing is started then).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
miroir=${MIROIR_BIN:-$target/debug/miroir}
version=0.43.0

[ -n "${MEILI_URL:-}" ] || [ -x "$miroir" ] || { echo "smoke: no binary at $miroir: build it, or set MIROIR_BIN" >&2; exit 1; }

venv=$target/smoke-venv-$version
if [ ! -f "$venv/ready" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "meilisearch==$version"
    touch "$venv/ready"
fi

export MOVIES=$root/ops/demo/movies.ndjson
if [ -n "${MEILI_URL:-}" ]; then
    exec "$venv/bin/python" "$here/python_sdk.py"
fi

data=$(mktemp -d)
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$miroir" up --json --port "$port" --data "$data/cluster" >"$data/ready" 2>"$data/log" &
up=$!

finish() {
    kill -INT "$up" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$up" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$up" 2>/dev/null || true
    rm -rf "$data"
}
trap finish EXIT

for _ in $(seq 600); do
    [ -s "$data/ready" ] && break
    kill -0 "$up" 2>/dev/null || { cat "$data/log" >&2; echo "smoke: miroir up ended" >&2; exit 1; }
    sleep 0.1
done
[ -s "$data/ready" ] || { cat "$data/log" >&2; echo "smoke: not ready in a minute" >&2; exit 1; }

MEILI_URL=$(python3 -c 'import json, sys; print(json.loads(sys.stdin.readline())["url"])' <"$data/ready")
MEILI_KEY=$(python3 -c 'import json, sys; print(json.loads(sys.stdin.readline())["masterKey"])' <"$data/ready")
export MEILI_URL MEILI_KEY
"$venv/bin/python" "$here/python_sdk.py"
