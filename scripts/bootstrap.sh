# shellcheck shell=bash
# Sourced by the other scripts. Sets
#   root    the repository's folder
#   python  the interpreter to run
# The first start makes an environment from requirements.txt; later ones only
# compare two small files.
#
#   FBACKPROP_PYTHON       use this interpreter as it is; nothing is installed
#   FBACKPROP_VENV         the environment's name in the repository (.venv);
#                          must begin with .venv, for the folder may be deleted
#   FBACKPROP_BASE_PYTHON  the interpreter to make the environment with
#
# Every step checks its own outcome: `set -e` is off wherever a caller tests
# the result, and half an environment must never pass for a whole one.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P) || exit 1

fbackprop_say() { printf 'fbackprop: %s\n' "$*" >&2; }

fbackprop_die() {
  fbackprop_say "$@"
  exit 1
}

# What the environment depends on. Of pyproject.toml only what an editable
# install bakes in: a new pytest option must not cost a reinstall. The folder,
# because an environment does not survive a move.
fbackprop_stamp() {
  printf '# %s\n' "$root" &&
    awk '/^\[/ { keep = /^\[(build-system|project|tool\.hatch)/ } keep' "$root/pyproject.toml" &&
    cat "$root/requirements.txt"
}

fbackprop_fresh() {
  local stamp=$1/fbackprop-requirements.txt
  [ -x "$1/bin/python" ] && [ -f "$stamp" ] && fbackprop_stamp | cmp -s - "$stamp"
}

# Prints the interpreter to build on. One counts only if it runs (a pyenv shim
# may not) and, where there is no uv, can make an environment (Debian's bare
# python3 cannot). Of an environment's python the base is taken: it may be the
# very one that is about to be deleted.
fbackprop_find_base() {
  local probe="import sys
v = '.'.join(map(str, sys.version_info[:3]))
if sys.version_info < (3, 11):
    sys.exit(print('is ' + v))
try:
    ${1:-pass}
except ImportError as error:
    sys.exit(print('is ' + v + ' without the module ' + error.name))
print('ok ' + (getattr(sys, '_base_executable', '') or sys.executable))"
  local candidate verdict found='' seen=()

  if [ -n "${FBACKPROP_BASE_PYTHON:-}" ]; then
    seen=("$FBACKPROP_BASE_PYTHON")
  else
    while IFS= read -r candidate; do
      seen+=("$candidate")
    done < <(type -aP python3 python3.13 python3.12 python3.11)
    for candidate in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.{14,13,12,11}.*/bin/python3; do
      if [ -x "$candidate" ]; then seen+=("$candidate"); fi
    done
  fi

  for candidate in ${seen[@]+"${seen[@]}"}; do
    verdict=$("$candidate" -I -c "$probe" 2>/dev/null </dev/null) || verdict='does not run'
    if [ "${verdict#ok }" != "$verdict" ]; then
      printf '%s\n' "${verdict#ok }"
      return
    fi
    found+=$'\n'"  $candidate $verdict"
  done
  fbackprop_die "expected a Python of 3.11 or newer to make an environment with, found:${found:- none}
next: install one, with its venv module, and name it: FBACKPROP_BASE_PYTHON=/path/to/python3.12"
}

# Prints an interpreter of a version, as 3.12, that can make an environment; nothing if there is
# none. A pyenv shim may stand for a version that is not chosen, hence the trial run.
fbackprop_find_python() {
  local candidate
  while IFS= read -r candidate; do
    if "$candidate" -I -c "import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      printf '%s\n' "$candidate"
      return
    fi
  done < <(
    type -aP "python$1" || true
    printf '%s\n' "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/"$1".*/bin/"python$1"
  )
}

fbackprop_fill_with_uv() {
  uv venv --python "$2" "$1" &&
    uv pip install --python "$1/bin/python" --require-hashes -r "$root/requirements.txt" &&
    uv pip install --python "$1/bin/python" --no-deps --no-build-isolation -e "$root"
}

# -I keeps pip from taking packages on PYTHONPATH for installed ones. The lock is whole, hence
# --no-deps: asked to find them out, pip takes the newest release for a requirement with an extra
# (pytest-cov's coverage[toml]) and then refuses it for want of a hash.
fbackprop_fill_with_pip() {
  local pip=("$1/bin/python" -I -m pip --disable-pip-version-check install)
  "$2" -I -m venv "$1" &&
    "${pip[@]}" --no-deps --require-hashes -r "$root/requirements.txt" &&
    "${pip[@]}" --no-deps --no-build-isolation -e "$root"
}

# A subshell, so that neither the lock nor a changed variable outlives it.
fbackprop_install() (
  dir=$1 name=${1##*/} stamp=$1/fbackprop-requirements.txt installer=pip needs='import ensurepip, venv'
  [ -w "$root" ] ||
    fbackprop_die "expected to make $name in $root, found that folder write-protected; next: FBACKPROP_PYTHON=/path/to/python names an interpreter that has the packages"
  if command -v flock >/dev/null; then
    exec 9>"$dir.lock"
    if ! flock -n 9; then
      fbackprop_say "another start is making $name; waiting for it ..."
      flock 9 || exit 1
    fi
    if fbackprop_fresh "$dir"; then exit 0; fi
  fi
  if command -v uv >/dev/null; then installer=uv needs=''; fi
  base=$(fbackprop_find_base "$needs") || exit 1

  SECONDS=0
  fbackprop_say "making $name once with $installer and $base, about a minute (progress: $name.log) ..."
  # Whatever is active or set by default, everything goes into $dir.
  unset VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX UV_SYSTEM_PYTHON
  rm -rf -- "$dir" || exit 1
  if ! "fbackprop_fill_with_$installer" "$dir" "$base" >"$dir.log" 2>&1; then
    tail -n 20 "$dir.log" >&2
    fbackprop_die "expected $installer to fill $name from requirements.txt, found the error above (all of it: $dir.log); next: mend it (the network? the disk?) and run this again"
  fi
  # Last, and by a rename, so that an environment with a stamp is a whole one.
  fbackprop_stamp >"$stamp.part" || exit 1
  mv -- "$stamp.part" "$stamp" || exit 1
  fbackprop_say "made $name in $SECONDS s"
)

if [ -n "${FBACKPROP_PYTHON:-}" ]; then
  # Absolute, for a caller may change folder; links are kept, because what an
  # environment's python links to lies outside that environment.
  python=$(type -P -- "$FBACKPROP_PYTHON") ||
    fbackprop_die "expected FBACKPROP_PYTHON to name an interpreter, found nothing executable at '$FBACKPROP_PYTHON'; next: correct it, or unset it to have an environment made"
  case $python in /*) ;; *) python=$PWD/$python ;; esac
  export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
else
  fbackprop_venv=${FBACKPROP_VENV:-.venv}
  if [ "${fbackprop_venv#.venv}" = "$fbackprop_venv" ] || [ "${fbackprop_venv##*/}" != "$fbackprop_venv" ]; then
    fbackprop_die "expected FBACKPROP_VENV to be a name that begins with .venv, found '$fbackprop_venv'; next: name it for example .venv-3.12"
  fi
  # shellcheck disable=SC2034 # for the script that sources this one
  python=$root/$fbackprop_venv/bin/python
  fbackprop_fresh "$root/$fbackprop_venv" || fbackprop_install "$root/$fbackprop_venv" || exit 1
fi
