"""What follows the encoder in a folder of sentence-transformers, as `modules.json` lists it.

https://sbert.net/docs/sentence_transformer/usage/custom_models.html describes the files.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bertbatch.errors import JobError
from bertbatch.model.checkpoint import list_modules, read_json, safetensors_shapes, whole_number

# As `model.pooling` names them, by the names that sentence-transformers has.
POOLINGS = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Classes of torch.nn.
ACTIVATIONS = {"Tanh": "tanh", "Identity": "none", "ReLU": "relu", "GELU": "gelu"}
SIZES = ("hidden_size", "dim", "d_model", "n_embd")  # of the encoder's hidden states
# Of the encoder: the first that is there counts.
SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
PLAIN = ("sentence_embedding", None)  # what a module may read and write


@dataclass(frozen=True)
class Dense:
    """A linear layer over a pooled vector, with its activation; `folder`: below the model's."""

    folder: str
    inputs: int
    outputs: int
    bias: bool
    activation: str


@dataclass(frozen=True)
class Modules:
    """`pooling` as `model.pooling` has it; `layers`: what follows, None divides by the length.

    `max_length` in tokens, `prompt`: what is put before each text by default.
    """

    pooling: str
    layers: tuple[Dense | None, ...]
    dimensions: int
    max_length: int | None
    prompt: str | None


def modules_of(pooling: str, config: dict[str, Any], folder: Path, where: str) -> Modules:
    """What makes vectors of an encoder's hidden states, where `model.pooling` is this.

    `config` is the encoder's. Of a plain model that is the mean alone. Raises JobError.
    """
    size = whole_number(config, where, *SIZES)
    if not size:
        raise JobError(f"{where}: its config.json has none of {', '.join(SIZES)}; is it whole?")
    found = _read(folder, size, where) or Modules("mean", (), size, None, None)
    return found if pooling == "auto" else replace(found, pooling=pooling)


def _read(folder: Path, size: int, where: str) -> Modules | None:
    modules = list_modules(folder, where)
    if not modules:
        return None
    encoder, pooling, *others = modules if len(modules) > 1 else [*modules, ("", "")]
    settings = (folder / encoder[1] / name for name in SETTINGS)
    found = next((path for path in settings if path.is_file()), None)
    asked = read_json(found, where) if found else {}
    if encoder[0] != "Transformer" or pooling[0] != "Pooling":
        raise JobError(
            f"{where}: modules.json names {', '.join(name for name, _ in modules)}, and only "
            "Transformer, Pooling, then Dense or Normalize are known"
        )
    if asked.get("do_lower_case"):
        raise JobError(
            f"{where}: {found.name if found else ''} asks for texts in lower case (do_lower_case), "
            "which bertbatch does not do; use a model whose tokenizer does it"
        )
    how = read_json(folder / pooling[1] / "config.json", where)
    prompts = folder / "config_sentence_transformers.json"
    layers = tuple(_layer(folder, name, path, where) for name, path in others)
    for layer in layers:
        if layer and layer.inputs != size:
            raise JobError(
                f"{where}: {layer.folder} takes vectors of {layer.inputs}, not of {size}"
            )
        size = layer.outputs if layer else size
    return Modules(
        pooling=_pooling(how, where),
        layers=layers,
        dimensions=size,
        max_length=whole_number(asked, where, "max_seq_length"),
        prompt=_prompt(read_json(prompts, where) if prompts.is_file() else {}, how, where),
    )


def _pooling(config: dict[str, Any], where: str) -> str:
    given = config.get("pooling_mode") or [
        mode for key, mode in OLD_KEYS.items() if config.get(key)
    ]
    modes = [given] if isinstance(given, str) else list(given) or ["mean"]
    if len(modes) > 1 or modes[0] not in POOLINGS:
        raise JobError(
            f"{where}: its pooling is {' and '.join(map(str, modes))}, and {', '.join(POOLINGS)} "
            "are known, one at a time"
        )
    return POOLINGS[modes[0]]


def _layer(folder: Path, name: str, path: str, where: str) -> Dense | None:
    file = folder / path / "config.json"
    config = read_json(file, where) if file.is_file() else {}
    for key in ("module_input_name", "module_output_name"):
        if config.get(key, PLAIN[0]) not in PLAIN:
            raise JobError(f"{where}: {name} in {path} works on {config[key]}, not on one vector")
    if name == "Normalize":
        return None
    if name != "Dense":
        raise JobError(f"{where}: modules.json names {name}; only Dense and Normalize are known")
    found = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = ACTIVATIONS.get(found.rpartition(".")[2])
    if activation is None or not found.startswith("torch.nn.") or config.get("use_residual"):
        what = "use_residual" if config.get("use_residual") else f"the activation {found}"
        raise JobError(
            f"{where}: {path}/config.json has {what}, and {', '.join(ACTIVATIONS)} without "
            "residuals are known"
        )
    inputs, outputs = (
        whole_number(config, where, key) or 0 for key in ("in_features", "out_features")
    )
    dense = Dense(path, inputs, outputs, bool(config.get("bias", True)), activation)
    weights = folder / path / "model.safetensors"
    shapes = safetensors_shapes(weights, where)
    wanted = {"linear.weight": [outputs, inputs], "linear.bias": [outputs]}
    if not dense.bias:
        del wanted["linear.bias"]
    if shapes != wanted:
        raise JobError(f"{where}: {weights} holds {shapes}, its config.json says {wanted}")
    return dense


def _prompt(config: dict[str, Any], pooling: dict[str, Any], where: str) -> str | None:
    name = config.get("default_prompt_name")
    if name is None:
        return None
    prompts = config.get("prompts") or {}
    if name not in prompts or not isinstance(prompts[name], str):
        raise JobError(
            f"{where}: config_sentence_transformers.json names the prompt {name!r} and has "
            f"{', '.join(prompts) or 'none'}; is the file whole?"
        )
    if prompts[name] and not pooling.get("include_prompt", True):
        raise JobError(
            f"{where}: its pooling leaves out the tokens of the prompt {prompts[name]!r} "
            "(include_prompt: false), which bertbatch does not do"
        )
    return prompts[name] or None
