"""Reads and writes of files: local disks, object stores, HTTP.

It knows paths, bytes and what a store promises of them.
It does not know what the files hold.
"""
