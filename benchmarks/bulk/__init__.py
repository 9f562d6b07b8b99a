"""Bulk jobs that are killed and resumed, with their figures."""
