"""For authors of specs: `properties`. Of rules: `rule_conforms`. Of backends: random models and calls, comparisons with
the reference.

Needs torch and hypothesis; the compiler itself never imports this package.
"""

from recdsl.testing.cases import Case, cases, random_case
from recdsl.testing.compare import assert_close_gradients, assert_matches, reference
from recdsl.testing.properties import properties
from recdsl.testing.rules import check_rule, rule_conforms

__all__ = [
    "Case",
    "assert_close_gradients",
    "assert_matches",
    "cases",
    "check_rule",
    "properties",
    "random_case",
    "reference",
    "rule_conforms",
]
