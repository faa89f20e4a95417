"""The machine: memory, devices, the terminal, files that are written whole."""
