"""Every path of every framework with every fault: see ``make faults``."""
