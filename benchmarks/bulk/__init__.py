"""A bulk job that is killed and resumed, with its figures."""
