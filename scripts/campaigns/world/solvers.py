"""Linear algebra, integrals, differential equations, transforms."""

import jax.numpy as jnp
import numpy as np

from scripts.campaigns.world.rule import Draw, Rule, between, normal, positive_definite

LINEAX, EQUINOX, DIFFRAX = "lineax==0.1.1", "equinox==0.13.8", "diffrax==0.7.2"
OPTIMISTIX, QUADAX, MATFREE = "optimistix==0.1.0", "quadax==0.3.1", "matfree==0.6.3"
SPARSAX, NUFFTAX, S2FFT = "sparsax==0.9.0", "nufftax==0.6.1", "s2fft==1.5.0"
NETKET, JAXTRONOMY, JAX = "netket==3.23.0", "jaxtronomy==0.1.5", "jax==0.10.2"


def lanczos(tridiag_sym):
  estimate = tridiag_sym(3, reortho="none", materialize=True)

  def f(vec, a):
    found = estimate(lambda v, a: (a + a.T) @ v, vec, a)
    return found.Q_tall, found.J_small

  return f


def arnoldi(hessenberg):
  estimate = hessenberg(3, reortho="full")

  def f(vec, a):
    found = estimate(lambda v, a: a @ v, vec, a)
    return found.Q_tall, found.J_small

  return f


def least_squares(lsmr):
  solve = lsmr()
  return lambda b, a: solve(lambda v, a: v @ a, b, a)[0]


# The values of a symmetric matrix of three rows, of which the upper triangle is stored.
ENTRIES = Draw((5,), of=lambda rng, shape: np.array([4, 1, 4, 1, 4]) + 0.1 * rng.random(shape))


def sparse_solve(solve):
  i, j = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 2])
  return lambda ax, b: solve(i, j, ax, b)


def sparse_logdet(logdet):
  i, j = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 2])
  return lambda ax: logdet(i, j, ax, 3)


def spreading(spread):
  from nufftax.core.kernel import compute_kernel_params

  def f(x, re, im):
    y = spread(x, re + 1j * im, 16, compute_kernel_params(1e-4))
    return y.real, y.imag

  return f


def real_spreading(spread):
  from nufftax.core.kernel import compute_kernel_params

  return lambda x, c: spread(x, c, 16, compute_kernel_params(1e-4))


def transform(nufft):
  def f(x, re, im):
    y = nufft(x, re + 1j * im, 8, eps=1e-12)
    return y.real, y.imag

  return f


def linear_solve(solve):
  import lineax

  return lambda a, b: solve(lineax.MatrixLinearOperator(a), b).value


def root(root_find):
  import optimistix

  solver = optimistix.Newton(rtol=1e-10, atol=1e-10)
  return lambda a: (
    root_find(lambda y, a: y**3 + a * y - 1, solver, jnp.ones_like(a), a, throw=False).value
  )


def minimum(minimise):
  import optimistix

  solver = optimistix.BFGS(rtol=1e-9, atol=1e-9)

  def of(y, a):
    return jnp.sum(jnp.cosh(y) + a * y)

  return lambda a: minimise(of, solver, jnp.zeros_like(a), a, throw=False).value


def least(least_squares):
  import optimistix

  solver = optimistix.LevenbergMarquardt(rtol=1e-9, atol=1e-9)
  x = np.linspace(0, 1, 6)

  def of(y, data):
    return y[0] * jnp.exp(-y[1] * x) - data

  return lambda data: least_squares(of, solver, jnp.ones(2), data, throw=False).value


def solution(adjoint, **options):
  def make(diffeqsolve):
    import diffrax

    def f(y0, a):
      return diffeqsolve(
        diffrax.ODETerm(lambda t, y, a: -a * y + jnp.sin(t) * y[::-1]), diffrax.Tsit5(), 0.0, 1.0,
        0.1, y0, a, adjoint=getattr(diffrax, adjoint)(), max_steps=64, **options,
      ).ys  # fmt: skip

    return f

  return make


def integral(quadrature, **options):
  def make(quadgk):
    def f(a, interval):
      return quadgk(
        lambda x, a: jnp.exp(-a * x) * jnp.sin(x), interval, args=(a,), epsabs=1e-9, epsrel=1e-9
      )[0]

    return f

  return make


def loop(while_loop):
  def f(x):
    return while_loop(
      lambda s: s[0] < 4, lambda s: (s[0] + 1, jnp.sin(s[1]) * x), (0, x), max_steps=8,
      kind="checkpointed", checkpoints=3,
    )[1]  # fmt: skip

  return f


def ode(odeint):
  return lambda y0, a: odeint(lambda y, t, a: -a * y, y0, jnp.array([0.0, 0.5, 1.0]), a)


def krylov(solve):
  return lambda a, b: solve(a, b)[0]


SPREADING = "nufftax.core.spread:spread_1d"
POINTS = "nufftax_conjugate_in_the_gradient_by_points"
CONJUGATE = "By x it takes the conjugate of the strengths, as JAX doesn't."


def at_points(*lengths):
  """Five points of a period, and vectors of some lengths."""
  return (between(-3, 3, 5), *map(normal, lengths))


RULES = (
  Rule(LINEAX, "lineax._norm:_two_norm", (normal(5),)),
  Rule(LINEAX, "lineax.internal:max_norm", (normal(5),)),
  Rule(LINEAX, "lineax.internal:rms_norm", (normal(5),)),
  Rule(LINEAX, "lineax:linear_solve", (positive_definite(3), normal(3)), make=linear_solve),
  Rule(EQUINOX, "equinox.internal:nextafter", (normal(5),)),
  Rule(EQUINOX, "equinox.internal:prevbefore", (normal(5),)),
  Rule(EQUINOX, "equinox.internal:while_loop", (normal(3),), make=loop),
  Rule(EQUINOX, "equinox.debug:backward_nan", (normal(3),), options={"static": ()}),
  Rule(OPTIMISTIX, "optimistix:root_find", (between(0.5, 2, 3),), make=root, x64=True),
  Rule(OPTIMISTIX, "optimistix:minimise", (between(-1, 1, 3),), make=minimum, x64=True),
  Rule(OPTIMISTIX, "optimistix:least_squares", (between(0.5, 1, 6),), make=least, x64=True),
  Rule(
    DIFFRAX,
    "diffrax:diffeqsolve",
    (normal(2), between(0.5, 2, 2)),
    make=solution("RecursiveCheckpointAdjoint"),
    options={"seconds": 400},
    name="diffeqsolve, RecursiveCheckpointAdjoint",
  ),
  Rule(
    DIFFRAX,
    "diffrax:diffeqsolve",
    (normal(2), between(0.5, 2, 2)),
    make=solution("BacksolveAdjoint"),
    options={"seconds": 400},
    name="diffeqsolve, BacksolveAdjoint",
  ),
  Rule(QUADAX, "quadax:quadgk", (between(0.5, 2), (0.0, 1.5)), make=integral("quadgk"), x64=True),
  Rule(
    QUADAX,
    "quadax:quadcc",
    (between(0.5, 2), (0.0, 1.5)),
    options={"seconds": 400},
    make=integral("quadcc"),
    x64=True,
  ),
  Rule(MATFREE, "matfree.decomp:tridiag_sym", (normal(4), normal(4, 4)), make=lanczos),
  Rule(MATFREE, "matfree.decomp:hessenberg", (normal(4), normal(4, 4)), make=arnoldi),
  Rule(MATFREE, "matfree.lstsq:lsmr", (normal(5), normal(5, 3)), make=least_squares, x64=True),
  Rule(SPARSAX, "sparsax:solve", (ENTRIES, normal(3)), make=sparse_solve, x64=True),
  Rule(SPARSAX, "sparsax:lu_solve", (ENTRIES, normal(3)), make=sparse_solve, x64=True),
  Rule(SPARSAX, "sparsax:logdet", (ENTRIES,), make=sparse_logdet, x64=True),
  Rule(NUFFTAX, SPREADING, at_points(5, 5), make=spreading, note=CONJUGATE, finding=POINTS),
  Rule(NUFFTAX, SPREADING, at_points(5), make=real_spreading, name=f"{SPREADING} of reals"),
  Rule(
    NUFFTAX,
    "nufftax.core.spread:interp_1d",
    at_points(16, 16),
    make=spreading,
    note="As spread_1d.",
    finding=POINTS,
  ),
  Rule(NUFFTAX, "nufftax:nufft1d1", at_points(5, 5), make=transform, x64=True),
  Rule(JAX, "jax.experimental.ode:odeint", (normal(2), between(0.5, 2)), make=ode),
  Rule(JAX, "jax.scipy.sparse.linalg:cg", (positive_definite(3), normal(3)), make=krylov),
  Rule(JAX, "jax.scipy.sparse.linalg:gmres", (positive_definite(3), normal(3)), make=krylov),
  Rule(JAX, "jax.scipy.sparse.linalg:bicgstab", (positive_definite(3), normal(3)), make=krylov),
)
