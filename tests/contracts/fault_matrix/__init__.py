"""Every path of every room, on every fault: see ``make faults``."""
