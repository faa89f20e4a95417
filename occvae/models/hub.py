"""Downloads from and uploads to the Hugging Face Hub, with errors in one line."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from occvae.errors import UserError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(text: str) -> bool:
    """Whether a text has the form of an id on the Hub, `owner/name`."""
    return _ID.fullmatch(text) is not None


def download_export(repo_id: str, files: Sequence[str]) -> Path:
    """Downloads files of a model repository into the cache of huggingface_hub.

    All files are of the same commit. Without the network, the newest cached commit is used.

    Args:
        repo_id: `owner/name`.
        files: Names of the files.

    Returns:
        The folder of the files.

    Raises:
        UserError: The repository or a file does not exist, or cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download

    with _errors_of_the_hub(repo_id):
        first, *others = files
        folder = Path(hf_hub_download(repo_id, first)).parent
        for file in others:
            hf_hub_download(repo_id, file, revision=folder.name)
    return folder


def upload_files(repo_id: str, files: Mapping[str, Path | bytes], *, private: bool) -> str:
    """Creates a model repository if needed, and commits files to it. Returns its address.

    Args:
        repo_id: `owner/name`.
        files: The name of each file in the repository, and its local path or content.
        private: Whether a new repository is private.

    Raises:
        UserError: There is no access token, or the upload fails.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in files.items()
    ]
    api = HfApi()
    with _errors_of_the_hub(repo_id):
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.create_commit(repo_id, operations, commit_message="Upload a model of occvae")
    return str(url)


@contextlib.contextmanager
def _errors_of_the_hub(repo_id: str) -> Iterator[None]:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        RepositoryNotFoundError,
    )

    where = f"{repo_id} on the Hugging Face Hub"
    try:
        yield
    except GatedRepoError:
        reason = "needs permission; request it on its page, then run 'hf auth login'"
        raise UserError(f"{where}: {reason}") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{repo_id}: neither a local folder nor a model on the Hugging Face Hub; check the "
            "name, or run 'hf auth login' if it is private"
        ) from None
    except LocalTokenNotFoundError:
        raise UserError(f"{where}: no access token; run 'hf auth login'") from None
    except LocalEntryNotFoundError:
        raise UserError(
            f"{repo_id}: no such local folder, not in the cache, and the Hugging Face Hub cannot "
            "be reached; check the path, or the network and HF_HUB_OFFLINE"
        ) from None
    except EntryNotFoundError:
        raise UserError(
            f"{where}: lacks a file of an export (config.json, model.safetensors); give a model of "
            "occvae"
        ) from None
    except HfHubHTTPError as error:
        login = error.response.status_code in (401, 403)
        hint = "run 'hf auth login' with a token that may write" if login else "try again later"
        raise UserError(f"{where}: {_first_line(error)}; {hint}") from None
    except Exception as error:  # the transport library differs between versions
        raise UserError(f"{where}: {_first_line(error)}; try again") from None


def _first_line(error: Exception) -> str:
    return next((line.strip(" .") for line in str(error).splitlines() if line.strip()), repr(error))
