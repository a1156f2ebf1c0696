"""Files of trained weights: found in the caches of torch and symgrad, or downloaded.

Three environment variables change what happens:

- ``SYMGRAD_HUB_URL``: another place to download from than torchvision's; the files' names
  follow after it.  Any scheme of ``urllib`` will do, ``file:///srv/weights`` among them.
- ``SYMGRAD_HUB_DIR``: another folder than ``hub`` in the user's cache folder; downloads are
  kept, and looked for, in ``checkpoints`` in it.
- ``SYMGRAD_HUB_VERIFY=0``: takes files whatever their sha256, for weights of one's own
  under torchvision's names.

torch's cache (``TORCH_HOME``, ``XDG_CACHE_HOME``, else ``~/.cache/torch``) is only read.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from pathlib import Path
from typing import Any

from symgrad.io import load, state_dict
from symgrad.io.errors import HubError

__all__ = [
    "HubError",
    "download_url_to_file",
    "folders",
    "get_dir",
    "load_state_dict_from_url",
    "mirrored",
    "set_dir",
]

TORCHVISION = "https://download.pytorch.org/models/"
"""Where torchvision publishes weights."""

_HASH = re.compile(r"-([a-f0-9]{8,})\.")
_chosen: Path | None = None


def set_dir(d: str | os.PathLike[str]) -> None:
    """Chooses where downloads go for this process: the folder ``checkpoints`` in ``d``."""
    global _chosen  # noqa: PLW0603  (a setting of the process, as in torch)
    _chosen = Path(d).expanduser()


def get_dir() -> str:
    """The folder whose ``checkpoints`` downloads go to."""
    given = os.environ.get("SYMGRAD_HUB_DIR")
    if _chosen is not None or given:
        return str(_chosen or Path(given or "").expanduser())
    import platformdirs

    return str(Path(platformdirs.user_cache_dir("symgrad", appauthor=False)) / "hub")


def folders() -> list[Path]:
    """The folders that are looked into, torch's before our own, which downloads go to."""
    return [_torch_home() / "hub" / "checkpoints", Path(get_dir()) / "checkpoints"]


def _torch_home() -> Path:
    """As ``torch.hub`` finds it."""
    if given := os.environ.get("TORCH_HOME"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "torch"


def mirrored(url: str) -> str:
    """Where a file of torchvision's is downloaded from: ``SYMGRAD_HUB_URL``, where that is set."""
    base = os.environ.get("SYMGRAD_HUB_URL")
    if base and url.startswith(TORCHVISION):
        return f"{base.rstrip('/')}/{url.removeprefix(TORCHVISION)}"
    return url


def load_state_dict_from_url(
    url: str,
    model_dir: str | os.PathLike[str] | None = None,
    *,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
) -> dict[str, Any]:
    """The weights in the file a URL names, as arrays by name: cached, or downloaded and kept.

    ``model_dir`` is another folder than the caches; ``progress`` shows a bar on stderr;
    with ``check_hash`` the digits in the name, ``name-1f2e3d4c.pth``, must be those the
    file's sha256 begins with.  Raises ``HubError``, which says where the file was looked for
    and what can be done, and ``WeightsError`` for a file that cannot be read.
    """
    url = mirrored(url)
    name = file_name or url.rpartition("/")[2]
    found = _HASH.search(name)
    prefix = found[1] if found and check_hash and _verifies() else ""
    places = folders() if model_dir is None else [Path(model_dir).expanduser()]
    paths = [folder / name for folder in places]
    for path in paths:
        if path.is_file() and _is_whole(path, prefix, delete=path == paths[-1]):
            return state_dict(load(path))
    try:
        print(f'Downloading: "{url}" to {paths[-1]}', flush=True)
        _download(url, paths[-1], prefix, progress=progress)
    except HubError as error:
        raise HubError(f"{error}. {_remedy(name, paths)}") from error.__cause__
    return state_dict(load(paths[-1]))


def download_url_to_file(
    url: str, dst: str | os.PathLike[str], hash_prefix: str | None = None, progress: bool = True
) -> None:
    """Downloads a file, or the rest of it, to the path ``dst``; see ``symgrad.io.download``."""
    _download(url, Path(dst).expanduser(), hash_prefix or "", progress=progress)


def _verifies() -> bool:
    return os.environ.get("SYMGRAD_HUB_VERIFY", "1") != "0"


def _is_whole(path: Path, prefix: str, *, delete: bool) -> bool:
    """Whether a cached file has the sha256 of its name; warns of others, and may delete them."""
    digest = _sha256(path) if prefix else ""
    if digest.startswith(prefix):
        return True
    warnings.warn(
        f"{path}: damaged: its sha256 begins with {digest[: len(prefix)]}, not with {prefix}; "
        f"{'deleted' if delete else 'not used'}",
        UserWarning,
        stacklevel=4,
    )
    if delete:
        path.unlink(missing_ok=True)
    return False


def _remedy(name: str, paths: list[Path]) -> str:
    return (
        f"The file was looked for at {' and '.join(map(str, paths))}: put {name} there, or pass a "
        f"file's path: weights='path/to/{name}' to the function that makes the network, or "
        f"model.load_state_dict(symgrad.load('path/to/{name}')). SYMGRAD_HUB_URL names another "
        "place to download from"
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(url: str, path: Path, prefix: str, *, progress: bool) -> None:
    from symgrad.io.download import download  # with urllib, http, email and ssl

    download(url, path, prefix, progress=progress)
