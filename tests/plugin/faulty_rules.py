"""Rules that ask for what there is not."""

from recdsl.credit.plan import Tracing
from recdsl.credit.rule import Rule

LOST = Rule("lost", "A scope that nobody knows.", (), 1, 1, Tracing("elsewhere"))
TORN = Rule("torn", "Cuts that nobody knows.", (), 1, 1, Tracing("all", cuts="anywhere"))
