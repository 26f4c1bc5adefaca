"""The commands of the command line, by what they are about.

Each builds a job or opens an output, calls the library, and shows what came back. What commands
have in common is in `command.py`.
"""
