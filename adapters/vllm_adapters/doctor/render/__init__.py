"""Render a report: table rows, for the terminal and as an HTML page."""
