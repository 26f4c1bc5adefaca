"""Reads and writes files: local disks, object stores, HTTP.

It knows paths, bytes and what each store guarantees, with the retries that this needs.
It does not know what the files hold.
"""
