"""Many runs as one: what they are, where they lie, and how they are carried out."""

from drama.suite.layout import Cell, SuiteState, read_suite
from drama.suite.spec import BUILT_IN, SuiteSpec, Variant, load_spec

__all__ = ["BUILT_IN", "Cell", "SuiteSpec", "SuiteState", "Variant", "load_spec", "read_suite"]
