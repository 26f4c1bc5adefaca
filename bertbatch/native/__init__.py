"""The kernels for CPUs, in C++.

They are optional: without a compiler the package has none, and engines use torch's operators.
"""
