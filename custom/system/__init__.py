"""What runs beneath everything: files, processes, memory."""
