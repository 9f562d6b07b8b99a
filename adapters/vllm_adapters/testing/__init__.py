"""For tests of code that talks to vLLM: cassettes, real servers, a server that fails on order.

The pytest plugin is ``vllm_adapters.testing.plugin``; load it in the root ``conftest.py``::

    pytest_plugins = ["vllm_adapters.testing.plugin"]

What is imported from here needs the standard library only, so a benchmark can use it without pytest.
"""

from vllm_adapters.testing import faults, wire
from vllm_adapters.testing.fault_server import FaultServer, Received
from vllm_adapters.testing.sent import Sent, SentRequest

__all__ = ["FaultServer", "Received", "Sent", "SentRequest", "faults", "wire"]
