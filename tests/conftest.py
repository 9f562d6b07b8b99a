pytest_plugins = ["vllm_adapters.testing.plugin", "pytester"]
