#!/usr/bin/env bash
# Compares fbackprop's quantities with BackPACK, Opacus and jax-privacy:
# bash scripts/interop.sh [--json FILE] [--plant NAME] [--markdown]
# and models that went through torch, skl2onnx and Keras with what they were:
# bash scripts/interop.sh exchange [--write]
# Makes .venv-interop once, from the lock and, on top of it, from
# scripts/interop/requirements.txt (torch is large). FBACKPROP_PYTHON names an
# interpreter that has all of it already; nothing is installed then.
set -euo pipefail
FBACKPROP_VENV=${FBACKPROP_VENV:-.venv-interop}
. "$(dirname -- "${BASH_SOURCE[0]}")/bootstrap.sh"

peers=$root/scripts/interop/requirements.txt
stamp=$root/$FBACKPROP_VENV/fbackprop-interop.txt
if [ -z "${FBACKPROP_PYTHON:-}" ] && ! cmp -s -- "$peers" "$stamp"; then
  log=$root/$FBACKPROP_VENV.log
  fbackprop_say "installing the peers into $FBACKPROP_VENV once, some minutes (progress: $FBACKPROP_VENV.log) ..."
  if command -v uv >/dev/null; then
    installer=(uv pip install --python "$python")
  else
    installer=("$python" -I -m pip --disable-pip-version-check install)
  fi
  if ! "${installer[@]}" -r "$peers" >>"$log" 2>&1; then
    tail -n 20 "$log" >&2
    fbackprop_die "expected to install scripts/interop/requirements.txt, found the error above (all of it: $log); next: mend it (the network? the disk?) and run this again"
  fi
  # Last, so that what has the stamp is whole.
  cp -- "$peers" "$stamp.part" && mv -- "$stamp.part" "$stamp"
fi

# Everybody computes on the processor, where float64 is float64.
export JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES=
# Paths among the options start where this is called from.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
if [ "${1:-}" = exchange ]; then
  shift
  exec "$python" -m scripts.interop.exchange "$@"
fi
exec "$python" -m scripts.interop "$@"
