"""What the documents mention, by its shape, and whether there is such a thing.

A mention is what stands in backticks, a command in a code block, or a link. Its shape says what
it must be: a file, a command with its flags, a make target, a key of the job file, a name in the
code. What is none of these is prose, and is not looked at.
"""

import ast
import io
import re
import shlex
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

import bertbatch
from bertbatch import Job, JobError
from recipes import docs
from tests.helpers.inventory import (
    ROOT,
    code_words,
    files,
    flags,
    make_targets,
    members,
    members_of,
    script_flags,
)

ENDINGS = "py|md|yaml|toml|txt|json|csv|parquet|sh|sbatch|arrow|gz|safetensors"

# Names of other programs, of other libraries, and of files that users have.
OUTSIDE = {
    # files of users, of models and of outputs
    *(
        "job.yaml",
        "config.json",
        "modules.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "model.safetensors",
        "model.onnx",
        "onnx/model.onnx",
        "_SUCCESS.json",
        "my-job.yaml",
    ),
    *("transformers.py", "torch.py", "wheels/", "predictions/", "day=2026-11-23/", "metrics.json"),
    *("README.txt", "state.json", ".bertbatch-*.tmp", "label=positive/"),
    *("dist/", "out/benchmarks/", "attention.parquet", "_bertbatch", "_bertbatch/"),
    # other libraries' names
    *("AttentionInterface", "If-None-Match", "Xeon", "GELU", "NOREPLACE", "TZ"),
    *("DeprecationWarning", "auth_token", "save_pretrained", "varlen_attn", "trust_remote_code"),
    *(
        "decode_lines",
        "pyarrow.json",
        "save_to_disk",
        "flatten_indices()",
        "DatasetDict",
        "map",
        "vacuum",
    ),
    *("auto_map", "quantization_config", "attention_type", "block_sparse", "original_full"),
    *("output_attentions", "ray.init", "suspend: false", "attention_type: original_full"),
    # made by a rule from another name
    *(
        "token_std",
        "bertbatch/<id of the output>",
        "bertbatch.<id of the output>",
        "p_negative",
        "p_positive",
        "<name>_in",
        "_in",
    ),
    # placeholders, and values of environment variables
    *("OUTPUT", "NEW", "OLD", "INPUT", "ID", "JOB", "NAME", "TEXT", "HEAD"),
}
OUTSIDE_FLAGS = {
    *("--head", "--num-cpus", "--generate", "--temp-dir"),  # Ray's
    *("--nodes", "--gpus-per-node", "--export", "--from", "--no-deps"),  # Slurm's, kubectl's, pip's
}


def pages() -> list[Path]:
    """Every document that describes the program as it is."""
    folders = [ROOT, ROOT / "docs", ROOT / "benchmarks", ROOT / "recipes", ROOT / "examples"]
    found = [path for folder in folders for path in folder.glob("*.md")]
    return sorted({*found, *(ROOT / "cluster").rglob("*.md")} - {ROOT / "CHANGELOG.md"})


def wrong_in(page: str, where: Path) -> Iterator[str]:
    """Each mention in a document that is of nothing that there is; `where` it stands."""
    prose, blocks = _split(page)
    for mention in dict.fromkeys(re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", prose)):
        if why := wrong(" ".join(mention.split()), where):
            yield why
    for name, file in re.findall(r"`(\w+)`\s+in\s+`([\w/]+\.py)`", prose):
        there = [path for path in files() if f"/{path}".endswith(f"/{file}")]
        defined = re.compile(rf"\b(?:def|class) {name}\b|^ *{name}\b.*[:=]", re.M)
        if not any(defined.search((ROOT / path).read_text()) for path in there):
            yield f"`{name}` in `{file}`: not there"
    for kind, block in blocks:
        yield from _wrong_in_block(kind, block)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if why := _wrong_link(target, where):
            yield why


def wrong(mention: str, where: Path) -> str | None:
    """Why a mention is of nothing that there is; None if it is right, or prose."""
    if mention in OUTSIDE:
        return None
    for shape, check in SHAPES:
        if found := re.fullmatch(shape, mention):
            return None if check(found, where) else f"`{mention}`: no such {_noun(check)}"
    return None


def wrong_in_code(path: Path) -> Iterator[str]:
    """Each mention in a module's docstrings and comments that is of nothing that there is."""
    text = path.read_text()
    said = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(text)) if _has_doc(node)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    said += [token.string for token in tokens if token.type == tokenize.COMMENT]
    for words in said:
        for name in re.findall(r"(?<![\w/*])[\w/]+\.py\b", words):
            if name not in OUTSIDE and not _file(name, path):
                yield f"{name}: no such file"
        for mention in re.findall(r"`([^`]+)`", words):
            name = mention.split(".")[-1].removesuffix("()")
            is_name = re.fullmatch(r"_?[a-z]+(_[a-z]+)+|_[a-z]+|[A-Z]\w*[a-z]\w*", name)
            if is_name and name not in OUTSIDE and name not in code_words():
                yield f"`{mention}`: no such name"


# What a mention must be


def _command(found: re.Match[str], where: Path) -> bool:
    """command"""
    return not list(_wrong_command(found[0]))


def _make(found: re.Match[str], where: Path) -> bool:
    """make target"""
    words = [word for word in found[1].split() if "=" not in word]
    return set(words) <= make_targets()


def _python(found: re.Match[str], where: Path) -> bool:
    """module or script"""
    module, script = found[1], found[2]
    if script:
        return _file(script, where)
    path = module.replace(".", "/")
    return _file(f"{path}.py", where) or _file(f"{path}/__main__.py", where)


def _flag(found: re.Match[str], where: Path) -> bool:
    """flag"""
    known = {*OUTSIDE_FLAGS, *script_flags(), *(f for some in flags().values() for f in some)}
    return found[1] in known


def _file_of(found: re.Match[str], where: Path) -> bool:
    """file"""
    return _file(found[0], where)


def _key(found: re.Match[str], where: Path) -> bool:
    """key of the job file, or value of it"""
    name, value = found[1], found[2]
    if name in {section for section, _ in docs.sections()}:
        return not value or value == "{}" or value.startswith("{")
    if name not in docs.job_keys():
        return False
    if not value or set(value) & set("…<"):
        return True
    data = {"input": {"path": "in"}, "output": {"path": "out"}}
    try:
        Job.build(data, changes=[f"{name}={value}"])
    except JobError:
        return False
    return True


def _bare_key(found: re.Match[str], where: Path) -> bool:
    """key of the job file"""
    return any(f".{key}".endswith(f".{found[1]}") for key in docs.job_keys())


def _attribute(found: re.Match[str], where: Path) -> bool:
    """name in such a module or class"""
    owners = members().get(found[1])
    return owners is None or found[2] in owners


def _dotted(found: re.Match[str], where: Path) -> bool:
    """name in the package"""
    *module, name = found[0].split(".")
    path = ROOT.joinpath(*module)
    return any(
        name in members_of(file) or (file.parent / f"{name}.py").exists()
        for file in (path.with_suffix(".py"), path / "__init__.py")
        if file.exists()
    )


def _name(found: re.Match[str], where: Path) -> bool:
    """name in the code"""
    return found[1] in code_words()


SHAPES: list[tuple[str, Callable[[re.Match[str], Path], bool]]] = [
    (r"bertbatch [a-z].*", _command),
    (r"make ([a-z][\w =.…-]*)", _make),
    (r"python (?:-m ([\w.]+)|([\w./]+\.py)).*", _python),
    (r"(--[a-z][a-z-]*)(?:[ =].*)?", _flag),
    (rf"((?:{'|'.join(s for s, _ in docs.sections() if s)})(?:\.[a-z_]+)*)(?:[:=] ?(.*))?", _key),
    (rf"(?!.*[*<{{…$ ~])(?![./]|_bertbatch|\w+://)[\w./-]+\.(?:{ENDINGS})", _file_of),
    (r"(?!.*[*<{…$ ~])(?![./]|_bertbatch|\w+://)[\w./-]+/", _file_of),
    (r"([a-z_]+): \S.*", _bare_key),
    (r"bertbatch(?:\.\w+)+", _dotted),
    (r"([A-Za-z_]+)\.(\w+)(?:\(.*\))?", _attribute),
    (r"(_?[a-z]+(?:_[a-z]+)*)\(.*\)", _name),
    (r"([A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*)", _name),
    (r"([A-Z]+(?:_[A-Z]+)+|RULES|FORMATS|DATASETS|TABLES|TASKS|ENGINES|STATISTICS)", _name),
    (r"(_?[a-z]+(?:_[a-z0-9]+)+)", _name),
]


def _noun(check: Callable[..., bool]) -> str:
    return check.__doc__ or ""


# Documents


def _split(page: str) -> tuple[str, list[tuple[str, str]]]:
    """The prose without its code blocks, and these blocks with their languages."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.M | re.S)
    prose = re.sub(r"^```.*?^```", "", page, flags=re.M | re.S)
    indented = re.compile(r"(?<=\n\n)(?:    [^\n]*\n?)+")
    blocks += [("console", block) for block in indented.findall(prose)]
    return indented.sub("", prose), blocks


def _wrong_in_block(kind: str, block: str) -> Iterator[str]:
    if kind == "yaml":
        data = yaml.safe_load(block)
        sections = {name for name, _ in docs.sections()}
        if isinstance(data, dict) and set(data) & sections:
            data = {"input": {"path": "in"}, "output": {"path": "out"}} | data
            try:
                Job.build(data)
            except JobError as error:
                yield str(error)
    if kind == "python":
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "bertbatch":
                for alias in node.names:
                    if alias.name not in bertbatch.__all__:
                        yield f"from bertbatch import {alias.name}: no such name"
    for line in re.sub(r"\\\n", " ", block).splitlines():
        words = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
        if words.startswith(("bertbatch ", "make ", "python ")):
            yield from filter(None, [wrong(_without_comment(words), ROOT / "README.md")])


def _without_comment(line: str) -> str:
    return re.split(r"\s+#|\s+\|| &$", line)[0].strip()


def _wrong_command(line: str) -> Iterator[str]:
    try:
        _, name, *words = shlex.split(line, comments=True)
    except ValueError:
        return
    if name not in flags():
        yield name
        return
    for word in words:
        if word.startswith("--") and word.partition("=")[0] not in flags()[name]:
            yield word


def _wrong_link(target: str, where: Path) -> str | None:
    if target.startswith(("http://", "https://")):
        return None
    path, _, anchor = target.partition("#")
    file = (where.parent / path) if path else where
    if not file.exists():
        return f"({target}): no such file"
    if anchor and anchor not in anchors(file.read_text()):
        return f"({target}): no such heading"
    return None


def anchors(page: str) -> set[str]:
    """Where a link may point to in a page: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _file(name: str, where: Path) -> bool:
    if (where.parent / name).exists():
        return True
    return any(f"/{path}".endswith(f"/{name.rstrip('/')}") for path in files())


def _has_doc(node: ast.AST) -> bool:
    return isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
