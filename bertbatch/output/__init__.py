"""The output folder: its contract, its parts, the commit protocol, the lease.

Which rows make a unit is decided in `plan/`, what a part's rows say in `runtime/stages.py`.
"""
