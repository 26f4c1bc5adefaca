"""Where work is done: in this process, or on Ray.

Executors start work and report its end; they decide nothing.
Only this folder and `runtime/submit.py` import Ray.
"""
