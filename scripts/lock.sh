#!/usr/bin/env bash
# Re-locks: writes requirements.txt from pyproject.toml, for every platform and
# every Python from 3.11 on. Pins that still fit are kept; to take the newest
# of everything: scripts/lock.sh --upgrade
set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

if ! command -v uv >/dev/null; then
  echo "lock.sh: expected the program 'uv' on PATH, found none; next: install uv (for example 'pip install uv') and run this again" >&2
  exit 1
fi

uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
  --python-version 3.11 --extra dev "$@" pyproject.toml -o requirements.txt

# A user's uv settings can add index lines; the lock must serve any index.
if grep -nE '^-|://' requirements.txt >&2; then
  echo "lock.sh: expected only pinned packages in requirements.txt, found the option or address lines above; next: run this again without emit-index-url or emit-find-links in your uv settings" >&2
  exit 1
fi
