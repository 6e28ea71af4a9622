"""The report: one HTML file with everything in it, made from the results document."""

from hydrapot.validation.report.page import page, write_report

__all__ = ["page", "write_report"]
