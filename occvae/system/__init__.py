"""The machine: memory, devices, the terminal, locks, files that are written whole."""
