"""Many runs as one: what they are, where they lie, and how they are carried out."""

from drama.suite.built_in import BUILT_IN, load_spec
from drama.suite.layout import Cell, SuiteState, read_suite
from drama.suite.spec import SuiteSpec, Variant

__all__ = ["BUILT_IN", "Cell", "SuiteSpec", "SuiteState", "Variant", "load_spec", "read_suite"]
