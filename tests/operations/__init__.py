"""Jobs can be operated: on clusters, every night, at any terminal, with alarms.

Submitting, nodes that come and go, the files of `cluster/`, what is printed and logged, disk and
memory of long runs.
"""
