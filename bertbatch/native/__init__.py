"""The kernels for CPUs, in C++, and how Python builds and calls them.

They are optional: without a compiler the package has none, and engines use torch's operators.
"""
