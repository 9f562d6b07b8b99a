"""``python -m vllm_adapters`` is ``vllm-adapters``."""

import sys

from vllm_adapters.cli import main

sys.exit(main())
