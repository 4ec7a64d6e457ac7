"""Suites: many runs defined by one spec, in one directory, on this machine or on Ray."""

from drama.suite.built_in import BUILT_IN, load_spec
from drama.suite.layout import Cell, SuiteState, read_suite
from drama.suite.spec import SuiteSpec, Variant

__all__ = ["BUILT_IN", "Cell", "SuiteSpec", "SuiteState", "Variant", "load_spec", "read_suite"]
