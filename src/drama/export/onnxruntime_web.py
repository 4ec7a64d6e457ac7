"""The pinned ONNX Runtime for browsers, from the npm registry or from a file.

The archive is fetched once and checked against its published hash; the two files that a page needs
are kept in the user's cache. They are not part of this package: 14 MB that only pages need.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import urllib.request
from pathlib import Path

from drama.errors import ConfigError
from drama.export.output import write_new

VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the archive, as the registry publishes it."""
FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""JavaScript of the CPU backend, and its WebAssembly."""
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
REGISTRY = "https://registry.npmjs.org"
"""Replaced by the environment variable ``NPM_CONFIG_REGISTRY``, as for npm."""
TIMEOUT = 60.0


def runtime_files(source: str | Path | None = None) -> dict[str, bytes]:
    """Return the runtime's files by name.

    Args:
        source: The archive, or a folder with the two files, such as ``node_modules/onnxruntime-web
            /dist``. None takes the user's cache, and fetches the archive the first time.

    Raises:
        ConfigError: It is missing or another version, or the registry cannot be reached.
    """
    if source is None:
        return _cached()
    path = Path(source)
    if path.is_dir():
        return _from_folder(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--runtime {path} cannot be read: {error.strerror}") from error
    return _unpacked(content, str(path))


def cache_folder() -> Path:
    """Return the folder of the user's cache that holds the files."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "drama" / f"onnxruntime-web-{VERSION}"


def _cached() -> dict[str, bytes]:
    folder = cache_folder()
    if all((folder / name).is_file() for name in FILES):
        return _from_folder(folder)
    registry = os.environ.get("NPM_CONFIG_REGISTRY", REGISTRY).rstrip("/")
    url = f"{registry}/onnxruntime-web/-/{ARCHIVE}"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            content = response.read()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the runtime of the page could not be fetched from {url} ({error}); on a machine "
            f"without a network give --runtime {ARCHIVE}, from `npm pack onnxruntime-web@{VERSION}`"
        ) from error
    files = _unpacked(content, url)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_new(folder / name, data)
    return files


def _from_folder(folder: Path) -> dict[str, bytes]:
    try:
        files = {name: (folder / name).read_bytes() for name in FILES}
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}; it is needed by the page"
        ) from error
    if f"Web v{VERSION}".encode() not in files[FILES[0]][:200]:
        raise ConfigError(f"{folder} does not hold onnxruntime-web {VERSION}")
    return files


def _unpacked(content: bytes, where: str) -> dict[str, bytes]:
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        raise ConfigError(f"{where} is not onnxruntime-web {VERSION}: its hash differs")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        files = {}
        for name in FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            files[name] = member.read()
    return files
