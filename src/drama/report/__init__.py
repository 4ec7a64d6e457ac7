"""Reports of suites: tables, figures and one page of the finished runs.

``write_report`` implements ``drama report``. Modules: ``runs`` reads and validates run directories;
``summarise`` selects comparable runs and aggregates them into a ``summary``; ``protocol`` describes
the measurement; ``tables``, ``curves`` and ``figures`` present it, styled by ``drawing``; ``page``
renders HTML and Markdown.
"""

from drama.report.build import Report, build_summary, write_report, write_summary
from drama.report.summary import Summary

__all__ = ["Report", "Summary", "build_summary", "write_report", "write_summary"]
