"""The package's version, read by the build and by ``vllm_adapters.__version__``."""

__version__ = "0.1.0"
