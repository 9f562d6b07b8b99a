"""The demo: the same scenarios through the client and each framework, against a real vLLM, with checked answers."""
