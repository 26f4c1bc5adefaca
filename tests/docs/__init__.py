"""The documents and the project's own scripts are true.

The structure of the code, the demo, the audit of dependencies, the check on a machine with a GPU.
"""
