#!/usr/bin/env bash
# Trains a network: bash scripts/train.sh [options of `fbackprop train`].
# Stays where it is called from: runs/ and relative paths are yours.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/bootstrap.sh"
exec "$python" -m fbackprop train "$@"
