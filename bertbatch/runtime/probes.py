"""What models are tried on before they score."""

from bertbatch.engines import probe_texts
from bertbatch.engines.probe import Probe
from bertbatch.inputs import rows
from bertbatch.inputs.formats.reader import reader_of
from bertbatch.model.sequences import check_room
from bertbatch.model.tokenizer import get_tokenizer
from bertbatch.runtime.context import Context

SAMPLED_ROWS = 256  # read for texts that a quantized model is compared on


def make_probes(context: Context) -> dict[str, Probe]:
    """A probe for each model. Raises JobError if one has no tokenizer."""
    options, sample = context.job.input, None
    if any(spec.quantization for spec in context.specs.values()):
        sample = []
        if context.first is not None:
            reader = reader_of(context.format)
            sample = rows.first_texts(reader, options, context.first, SAMPLED_ROWS)
    probes = {}
    for model, spec in context.specs.items():
        tokenizer = get_tokenizer(spec)
        if not spec.asked.plain:
            check_room(tokenizer, spec.asked)
        pair, own = options.text_pair is not None, sample if spec.quantization else None
        probes[model] = probe_texts.make_probe(tokenizer, spec.max_length, pair, own)
    return probes
