"""What several test files use, and what tests run beside the program.

Small real things (models, sources, servers), stand-ins for machines that are not here, and faults.
No tests: each of these has one subject, and test files import from here alone.
"""
