from harness import *


def bf(x):
  return x.astype(jnp.bfloat16)


@case("V7", "pass")
def bf16_round_trip():
  return (lambda x: bf(x).astype(jnp.float32) * 2), (n(8),)


@case("V7", "pass")
def fp8_fake_quant():
  def q(x):
    return x.astype(jnp.float8_e4m3fn).astype(jnp.float32)

  return keep(q, lambda x, g: (g,)), (n(8),)


@case("V7", "fail", "x")
def fp8_fake_quant_wrong():
  def q(x):
    return x.astype(jnp.float8_e4m3fn).astype(jnp.float32)

  return keep(q, lambda x, g: (g * 1.5,)), (n(8),)


if __name__ == "__main__":
  main()
