"""Read ranges of a hub repository's files without downloading them: enough for headers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from svdjobs import escape
from svdjobs.errors import (
    CheckpointError,
    MissingKeyError,
    StorageError,
    SvdjobsError,
    UnavailableError,
    first_line,
)
from svdjobs.storage.credentials import renew
from svdjobs.storage.local import BLOB_VERSION


class HubFiles:
    """A `Readable` over a hub repository at one commit."""

    def __init__(self, repository: str, revision: str | None) -> None:
        """Ask the hub for the repository's list of files.

        Raises:
            HfHubHTTPError, httpx.HTTPError: the hub refuses or does not answer.
        """
        from huggingface_hub import HfApi

        about = HfApi().model_info(repository, revision=revision, files_metadata=True)
        self._repository, self._commit = repository, about.sha
        files = about.siblings or ()
        self._sizes = {file.rfilename: file.size for file in files}
        self._sha256 = {file.rfilename: file.lfs.sha256 for file in files if file.lfs}
        self._git = {file.rfilename: file.blob_id for file in files if file.blob_id}

    @property
    def url(self) -> str:
        """The repository and its commit."""
        return f"{self._repository}@{self._commit}"

    def size(self, key: str) -> int:
        """The size of a file in bytes. Some mirrors do not list sizes: then ask for this file's."""
        from huggingface_hub import get_hf_file_metadata

        self._require(key)
        if self._sizes[key] is None:
            with hub_errors(self.url):
                self._sizes[key] = get_hf_file_metadata(self._address(key)).size
        return self._sizes[key] or 0

    def version(self, key: str) -> str:
        """`blob:`, the name of the file's blob and its size, as for the same file in the hub's
        cache. For a hub that names no blobs: the commit, which fixes the content of every file."""
        self._require(key)
        blob = self._sha256.get(key) or self._git.get(key)
        return f"{BLOB_VERSION}{blob}:{self.size(key)}" if blob else str(self._commit)

    def sha256(self, key: str) -> str | None:
        """The sha256 of a large file, which the hub knows; None for other files."""
        return self._sha256.get(key)

    def exists(self, key: str) -> bool:
        """Whether the repository has the file."""
        return key in self._sizes

    def sizes(self, prefix: str) -> dict[str, int]:
        """The size in bytes of every file below a prefix, by key."""
        return {key: self.size(key) for key in self.keys(prefix)}

    def keys(self, prefix: str) -> list[str]:
        """All files below a prefix, sorted."""
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        return sorted(key for key in self._sizes if key.startswith(below))

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytearray:
        """The bytes [start, end) of a file.

        Raises:
            CheckpointError: the hub does not have it, or restricts access to it.
            StorageError: the hub ignores the range.
            UnavailableError: the hub does not answer, or sends too few bytes.
        """
        from huggingface_hub import constants
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        stop = self.size(key) if end is None else end
        if stop <= start:
            return bytearray()
        headers = {
            **build_hf_headers(),
            "Range": f"bytes={start}-{stop - 1}",
            "Accept-Encoding": "identity",
        }
        request: dict[str, Any] = {
            "headers": headers,
            "follow_redirects": True,
            "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT,
        }
        data = bytearray()
        with (
            hub_errors(self.url),
            get_session().stream("GET", self._address(key), **request) as response,
        ):
            if response.status_code >= 400:
                response.read()
            hf_raise_for_status(response)
            # A full answer (200) to a range from byte 0 has the right first bytes, and will do.
            if response.status_code != 206 and start:
                raise StorageError(f"{self.url}/{key}: the hub does not support range requests.")
            for piece in response.iter_bytes():
                data += piece
                if len(data) >= stop - start:
                    break
        if len(data) < stop - start:
            raise UnavailableError(
                f"{self.url}/{key}: {stop - start:,} bytes were requested, but the hub sent "
                f"{len(data):,}. Run the same command again."
            )
        return data[: stop - start]

    def _address(self, key: str) -> str:
        from huggingface_hub import hf_hub_url

        return str(hf_hub_url(self._repository, key, revision=self._commit))

    def _require(self, key: str) -> None:
        if key not in self._sizes:
            raise MissingKeyError(f"{self.url}/{key} does not exist.")


@contextmanager
def _token_errors(source: str) -> Iterator[None]:
    """Say so if the hub refuses the token: it then answers 401, also for public models."""
    from huggingface_hub import get_token

    try:
        yield
    except Exception as error:
        # A download says that the file is not in the cache, because of this error.
        answers = [getattr(one, "response", None) for one in (error, error.__cause__)]
        refused = [found for found in answers if found is not None and found.status_code == 401]
        if not refused or not get_token():
            raise
        said = refused[0].headers.get("X-Error-Message") or "HTTP 401"
        raise StorageError(
            f"{source}: the hub does not accept the token, HF_TOKEN ({escape.line(said)}). "
            f"{renew('Set a new one, or none for a public model')}: what is finished is kept and "
            f"skipped."
        ) from None


@contextmanager
def hub_errors(source: str) -> Iterator[None]:
    """Translate the errors of the hub into ours."""
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        with _token_errors(source):
            yield
    except GatedRepoError:
        raise CheckpointError(
            f"{source}: the hub restricts access to it. Request access there, and set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{source}: no such folder, and the hub has no such model, or does not show it: for a "
            f"private model set HF_TOKEN."
        ) from None
    except RevisionNotFoundError:
        revision = source.partition("@")[2]
        raise CheckpointError(f"{source}: the hub has no revision {revision!r} of it.") from None
    except HFValidationError:
        raise CheckpointError(f"{source}: no such folder, and not a hub id (owner/name).") from None
    except SvdjobsError:
        raise
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        # With HF_HUB_OFFLINE set, the hub cannot be reached later either.
        kind = StorageError if constants.HF_HUB_OFFLINE else UnavailableError
        raise kind(
            f"{source}: no such folder, and the hub could not be reached "
            f"({first_line(error)}). Copy the checkpoint here and give its folder, or try again "
            f"with a network; where only a proxy has one, set HTTPS_PROXY."
        ) from None
