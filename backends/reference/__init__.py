"""The definitional oracle: path weights taken literally through autograd on the edge-pruned unroll."""

from recdsl.backends.reference.oracle import Reference
from recdsl.backends.reference.result import Result

__all__ = ["Reference", "Result"]
