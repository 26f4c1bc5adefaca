"""Bad input costs only itself and is reported.

Files, columns, rows, model folders, job files and arguments that are odd, damaged or hostile:
refused, failed alone or in quarantine. Faults of machines and stores are in `exactly_once/`.
"""
