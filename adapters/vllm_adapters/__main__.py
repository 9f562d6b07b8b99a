"""``python -m vllm_adapters`` is ``vllm-adapters``."""

import sys

from vllm_adapters._cli.main import main

sys.exit(main())
