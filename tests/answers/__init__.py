"""Each row's answer is the one that transformers gives for its text alone.

Architectures, engines, batching, precisions, pairs of texts, processors and GPUs; models that
can't be scored so are refused. Attention statistics are in `attention/`.
"""
