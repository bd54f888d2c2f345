"""For authors of specs: `properties`. Of rules and backends: random models and calls, comparisons with the reference.

Needs torch and hypothesis; the compiler itself never imports this package.
"""

from recdsl.testing.cases import Case, cases, random_case
from recdsl.testing.compare import assert_close_gradients, assert_matches, reference
from recdsl.testing.properties import properties

__all__ = ["Case", "assert_close_gradients", "assert_matches", "cases", "properties", "random_case", "reference"]
