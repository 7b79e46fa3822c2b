"""How fields of pytrees are typed: `Float32[Array, "B L"] | Leaf`.

The same tree holds arrays on the device, NumPy arrays on the host, shape structs, specs and shardings, and it is
stacked and mapped over, where shapes differ. So the type says what the field means when the tree is in use, in the
letters of the file's legend, and `Leaf` lets everything else stand there; functions that are given the tree's arrays
check them.
"""

from typing import Any

Leaf = Any
