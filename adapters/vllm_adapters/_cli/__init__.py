"""The command line, ``vllm-adapters``: one module per command."""
