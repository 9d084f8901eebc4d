"""Functions of the operating system: files, processes, memory."""
