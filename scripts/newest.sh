#!/usr/bin/env bash
# Meets the next JAX before users do: takes the newest release of every dependency, without the lock,
# and runs the fast tests, the examples and the verifier's bank on it:
# bash scripts/newest.sh [--pre] [options of pytest]
#   --pre                  takes pre-releases too
#   FBACKPROP_BASE_PYTHON  the interpreter to build on; by default the newest there is
# The environment, .venv-newest, is made anew each time.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/bootstrap.sh"

pre=()
if [ "${1:-}" = --pre ]; then
  pre=(--pre)
  shift
fi
base=${FBACKPROP_BASE_PYTHON:-}
for version in 3.14 3.13 3.12 3.11; do
  [ -n "$base" ] || base=$(fbackprop_find_python "$version")
done
list='from importlib.metadata import distributions
print(*sorted({d.name + "==" + d.version for d in distributions()}), sep="\n")'
locked=$("$python" -I -c "$list")

newest=$root/.venv-newest
fbackprop_say "making .venv-newest with $base, some minutes (progress: .venv-newest.log) ..."
rm -rf -- "$newest"
"$base" -I -m venv "$newest"
if ! "$newest/bin/python" -I -m pip --disable-pip-version-check install \
  --upgrade --upgrade-strategy eager ${pre[@]+"${pre[@]}"} -e "$root[dev]" >"$newest.log" 2>&1; then
  tail -n 20 "$newest.log" >&2
  fbackprop_die "expected pip to resolve pyproject.toml without the lock, found the error above (all of it: $newest.log); next: mend the requirement that it names"
fi
printf 'newer than in %s (%s):\n' "${python#"$root/"}" "$("$python" --version)"
"$newest/bin/python" -I -c "$list" | grep -vxF "$locked" || true

failed=()
run() {
  printf '\n=== newest: %s\n' "$1"
  "${@:2}" || failed+=("$1")
}
cd -- "$root"
run 'the fast tests' "$newest/bin/python" -m pytest "$@"
run "the README's and the docs' examples" "$newest/bin/python" -m pytest README.md docs -m ""
run 'the verifier on its own bank' "$newest/bin/python" -m fbackprop verify --self-test --level quick
for name in ${failed[@]+"${failed[@]}"}; do printf 'newest: FAILED: %s\n' "$name" >&2; done
[ "${#failed[@]}" -eq 0 ] && printf 'newest: all parts passed\n'
