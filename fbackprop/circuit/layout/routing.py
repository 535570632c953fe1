"""Ports: the heights at which wires arrive at a gate.

A wire runs level through its column, then as a Bézier curve through the gap to the next column
(`drawing.draw_wires`), where it arrives at a bend, at a label, or at a port of a gate. Bends are
assigned in `columns`, their heights in `heights`; here the ports are spread over the left side of a
gate, each as near to the height of its wire's origin as order and distance allow. That is isotonic
regression with bounds: the pool-adjacent-violators algorithm (Ayer et al., Annals of Mathematical
Statistics 26, 1955, 641-647), clipped to the reach of the gate.
"""

from fbackprop.circuit.layout.columns import Extent, Link

PORTS = 7.0  # Pixels between two wires that arrive at a gate.


def assign_ports(links: list[Link], y: list[float], extents: list[Extent]) -> list[float]:
  """Compute the height at which each link arrives: level if possible, in order, and apart."""
  into: dict[int, list[int]] = {}
  for i, link in enumerate(links):
    into.setdefault(link.right, []).append(i)
  heights = [0.0] * len(links)
  for item, arriving in into.items():
    reach = extents[item].port
    arriving.sort(key=lambda i: (links[i].port if links[i].fixed else 0, y[links[i].left], i))
    apart = min(PORTS, 2 * reach / max(len(arriving) - 1, 1))
    most = min(PORTS, reach)
    wanted = [min(max(y[links[i].left] - y[item], -most), most) for i in arriving]
    for i, height in zip(arriving, spread(wanted, apart, reach), strict=True):
      heights[i] = y[item] + height
  return heights


def spread(wanted: list[float], apart: float, reach: float) -> list[float]:
  """Compute the least-squares nearest heights, at least `apart` from each other, within ±reach."""
  pools: list[tuple[float, int]] = []  # Sums and counts.
  for i, height in enumerate(wanted):
    pools.append((height - i * apart, 1))
    while len(pools) > 1 and pools[-2][0] * pools[-1][1] > pools[-1][0] * pools[-2][1]:
      (total, count), (total_, count_) = pools.pop(), pools.pop()
      pools.append((total + total_, count + count_))
  level = [total / count for total, count in pools for _ in range(count)]
  last = len(level) - 1
  return [min(max(h, -reach), reach - last * apart) + i * apart for i, h in enumerate(level)]
