"""Files on local disks, in object stores, over HTTP.

It knows paths, bytes and what each store guarantees, with the retries that this needs.
It does not know what the files hold.
"""
