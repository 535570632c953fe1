#!/usr/bin/env bash
# Builds the sdist and, from it, the wheel; checks both; uses the wheel in an empty environment that
# holds the required packages alone, on Python 3.13 if there is one:
# bash scripts/package.sh [FOLDER for the two files]
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/bootstrap.sh"

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
dist=${1:-$work/dist}
mkdir -p -- "$dist" "$work/empty"
dist=$(CDPATH='' cd -- "$dist" && pwd -P)

# Without isolation: the lock has what builds it, so that nothing is fetched.
"$python" -m build --no-isolation --outdir "$dist" "$root" >"$work/build.log" 2>&1 || {
  tail -n 20 "$work/build.log" >&2
  fbackprop_die "expected 'python -m build' to make an sdist and a wheel, found the error above"
}
wheel=$(ls -t "$dist"/fbackprop-*.whl | head -n 1)
sdist=$(ls -t "$dist"/fbackprop-*.tar.gz | head -n 1)
"$python" -m check_wheel_contents --config "$root/pyproject.toml" --package "$root/fbackprop" "$wheel"

# Whoever builds from the sdist needs the sources, the README that the metadata quotes, the licence;
# the tests come with it. What git ignores doesn't.
listed=$(tar -tzf "$sdist" | sed 's,^[^/]*/,,')
for name in README.md LICENSE pyproject.toml fbackprop/__init__.pyi fbackprop/py.typed tests/support/laws.py; do
  grep -qxF "$name" <<<"$listed" ||
    fbackprop_die "expected $name in ${sdist##*/}, found it missing; next: see [tool.hatch.build] in pyproject.toml"
done
if grep -E '(^|/)(\.venv|runs/|__pycache__|\.pytest_cache)' <<<"$listed" >&2; then
  fbackprop_die "expected no leftovers in ${sdist##*/}, found those above; next: list them in .gitignore"
fi

# The versions of the lock, without its hashes, which a wheel of our own could not have.
sed -E 's/ \\$//; /^ +--hash/d' "$root/requirements.txt" >"$work/constraints.txt"
newest=$(fbackprop_find_python 3.13)
"${newest:-$python}" -I -m venv "$work/venv"
"$work/venv/bin/python" -I -m pip --disable-pip-version-check --quiet install \
  --constraint "$work/constraints.txt" "$wheel" >"$work/install.log" 2>&1 || {
  tail -n 20 "$work/install.log" >&2
  fbackprop_die "expected pip to install ${wheel##*/} in an empty environment, found the error above"
}
unset PYTHONPATH
cd -- "$work/empty"
"$work/venv/bin/fbackprop" circuit '(x+y)*max(y,z)' --at x=1 y=2 z=0
"$work/venv/bin/python" -W error -I "$root/scripts/package_check.py"
fbackprop_say "${sdist##*/} and ${wheel##*/} are whole, and the wheel works with the required packages alone"
