"""The places in which credentials could be exposed, and their contents: see ``test_credentials.py``."""
