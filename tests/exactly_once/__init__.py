"""Every row ends once in the output, whatever dies, fails or runs at the same time.

Runs that are killed and resumed, stores and engines that fail, several runs on one output, the
commit protocol as a model, outputs of earlier versions. What single rows get is in `answers/`.
"""
