"""The machine: memory, devices, threads, the terminal, locks and atomic file writes."""
