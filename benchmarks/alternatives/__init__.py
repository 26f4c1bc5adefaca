"""What one would use in bertbatch's place: one script each, run as a process of its own."""
