"""Layered graph drawing, by the framework of Sugiyama, Tagawa and Toda (1981), in four steps.

1. `columns`: layer assignment. Each node gets a column, from left to right; a wire that spans
   several columns is cut into links between neighbouring ones, with a bend in each column between.
2. `crossings`: crossing minimisation. The order of the items in each column.
3. `heights`: coordinate assignment. The vertical coordinate of each item, wires kept straight.
4. `placement`: the horizontal coordinates, and the ports at which wires arrive.

A layer is called a column throughout, since a layer of this package is one of a network.
"""
