"""Real gateways in front of real servers: what works through each."""
