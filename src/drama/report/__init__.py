"""What a suite has come to: tables, figures and one page, from whatever has finished.

``write_report`` is what ``drama report`` calls. The rooms: ``runs`` reads directories without
trusting them; ``summary`` decides what may be averaged; ``protocol`` says how it was measured;
``tables``, ``curves`` and ``figures`` show it, in the style of ``drawing``; ``page`` puts it on one
page.
"""

from drama.report.build import Report, build_summary, write_report, write_summary
from drama.report.summary import Summary

__all__ = ["Report", "Summary", "build_summary", "write_report", "write_summary"]
