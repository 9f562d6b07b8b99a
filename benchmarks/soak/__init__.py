"""Mixed calls over a line that breaks at random: every answer right or a typed error, in time, and nothing leaks."""
