#!/usr/bin/env bash
# Compares fbackprop's quantities with BackPACK, Opacus and jax-privacy:
# bash scripts/interop.sh [--json FILE] [--plant NAME] [--markdown]
# and its curvature with BackPACK, curvlinops, laplax and kfac-jax:
# bash scripts/interop.sh curvature [--write] [--plant NAME]
# and models that went through torch, skl2onnx and Keras with what they were:
# bash scripts/interop.sh exchange [--write]
# Makes .venv-interop once, from the lock and, on top of it, from
# scripts/interop/requirements.txt (torch is large), and for kfac-jax, which
# needs another jax, .venv-interop-kfac-jax. FBACKPROP_PYTHON and
# FBACKPROP_KFAC_JAX_PYTHON name interpreters that have all of it already;
# nothing is installed then.
set -euo pipefail
FBACKPROP_VENV=${FBACKPROP_VENV:-.venv-interop}
. "$(dirname -- "${BASH_SOURCE[0]}")/bootstrap.sh"

# Installs a file of requirements once: install REQUIREMENTS NAME PYTHON
install() {
  local peers=$root/scripts/interop/$1 log=$root/$2.log installer
  local stamp=$root/$2/fbackprop-interop.txt
  if cmp -s -- "$peers" "$stamp"; then return; fi
  fbackprop_say "installing the peers into $2 once, some minutes (progress: $2.log) ..."
  if command -v uv >/dev/null; then
    installer=(uv pip install --python "$3")
  else
    installer=("$3" -I -m pip --disable-pip-version-check install)
  fi
  if ! "${installer[@]}" -r "$peers" >>"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fbackprop_die "expected to install scripts/interop/$1, found the error above (all of it: $log); next: mend it (the network? the disk?) and run this again"
  fi
  # Last, so that what has the stamp is whole.
  cp -- "$peers" "$stamp.part" && mv -- "$stamp.part" "$stamp"
}

if [ -z "${FBACKPROP_PYTHON:-}" ]; then
  install requirements.txt "$FBACKPROP_VENV" "$python"
fi
if [ "${1:-}" = curvature ] && [ -z "${FBACKPROP_KFAC_JAX_PYTHON:-}" ]; then
  other=$FBACKPROP_VENV-kfac-jax
  FBACKPROP_KFAC_JAX_PYTHON=$root/$other/bin/python
  if [ ! -x "$FBACKPROP_KFAC_JAX_PYTHON" ]; then
    "$python" -I -m venv "$root/$other" ||
      fbackprop_die "expected to make the environment $other, found the error above; next: install Python's venv module and run this again"
  fi
  install kfac_jax.txt "$other" "$FBACKPROP_KFAC_JAX_PYTHON"
fi
export FBACKPROP_KFAC_JAX_PYTHON

# Everybody computes on the processor, where float64 is float64.
export JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES=
# Paths among the options start where this is called from.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
if [ "${1:-}" = exchange ]; then
  shift
  exec "$python" -m scripts.interop.exchange "$@"
elif [ "${1:-}" = curvature ]; then
  shift
  exec "$python" -m scripts.interop.curvature "$@"
fi
exec "$python" -m scripts.interop "$@"
