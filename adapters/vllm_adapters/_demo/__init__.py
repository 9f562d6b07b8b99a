"""The tour: the same jobs through the client and through each framework, against a real vLLM, each answer checked."""
