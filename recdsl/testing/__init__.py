"""For authors of rules and backends: random models and calls, and comparisons with the reference.

Needs torch and hypothesis; the compiler itself never imports this package.
"""

from recdsl.testing.cases import Case, cases, random_case
from recdsl.testing.compare import assert_close_gradients, assert_matches, reference

__all__ = ["Case", "assert_close_gradients", "assert_matches", "cases", "random_case", "reference"]
