import sys, time, jax, jax.numpy as jnp, numpy as np

CASES = []


def case(kind, want, leaves="", **options):
  def deco(make):
    CASES.append((kind, make.__name__, want, leaves, make, options))
    return make

  return deco


def cjvp(f, rule, **kw):
  g = jax.custom_jvp(f, **kw)
  g.defjvp(rule)
  return g


def cvjp(f, fwd, bwd, **kw):
  g = jax.custom_vjp(f, **kw)
  g.defvjp(fwd, bwd)
  return g


def keep(f, bwd):
  return cvjp(f, lambda *a: (f(*a), a), lambda r, g: bwd(*r, g))


def n(*s, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=s), jnp.float32)


def pos(*s, seed=0):
  return jnp.asarray(np.random.default_rng(seed).uniform(0.5, 2, size=s), jnp.float32)


def main():
  import fbackprop as fb
  from fbackprop import verify

  level = sys.argv[1] if len(sys.argv) > 1 else "quick"
  pat = sys.argv[2] if len(sys.argv) > 2 else ""
  bad = 0
  for kind, name, want, leaves, make, options in CASES:
    if pat and pat not in kind + " " + name:
      continue
    start = time.time()
    try:
      made = make()
      f, args = made[0], made[1]
      opts = dict(options, **(made[2] if len(made) > 2 else {}))
      mode = opts.pop("mode", "vjp")
      report = getattr(verify, mode)(f, *args, **{"level": level, **opts})
      got = report.verdict
      first = report.findings[0] if report.findings else None
    except Exception as e:
      got = type(e).__name__
      first = str(e)[:150]
    ok = got == want and (
      want != "fail" or not leaves or getattr(first, "leaf", "") in leaves.split(", ")
    )
    bad += not ok
    msg = (
      first
      if isinstance(first, str)
      else ""
      if first is None
      else f"{first.check}|{first.regime}|{first.leaf}|{first.cause}|{first.message[:110]}"
    )
    print(
      f"{'ok ' if ok else 'BAD'} {kind:4} {name:34} want {want:10} got {got:12} {time.time() - start:5.1f}s {msg if not ok or '-v' in sys.argv else ''}",
      flush=True,
    )
  print("bad", bad)
