#!/usr/bin/env bash
# Runs the fast tests: bash scripts/test.sh [options of pytest].
# Runs in the repository's folder, so paths among the options start there.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/bootstrap.sh"
cd -- "$root"
exec "$python" -m pytest "$@"
