"""A model checker for the commit protocol.

A store, writers that run the real code, and the search of what they may do (`search.py`).

A writer is a function of what its store answers. So it is run with recorded answers up to
its next store operation, and that operation is kept; the schedules of several writers are
then a graph of (store, where each writer is), searched whole. At every point any writer may
go on, or be gone for good. Up to `faults` times in a schedule an operation fails: it is not
done; or it is a change, is done, and its reply is lost; or, with `late`, it is done at any time
after the error, by a request that the client has given up. At every end a run that starts
afresh repairs. Nothing is left out of what this describes, but with three writers there are
no faults, and once no crashes.

Within one writer the order is that of `runtime/run.py` with one commit at a time; workers that a
dead run has left behind are writers of their own (`left_behind`).
"""
