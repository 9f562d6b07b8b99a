"""Where a key could be found, and what is found there: see ``test_keys.py``."""
