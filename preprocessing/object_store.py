"""Where an object store is unlike a disk: listings go stale, errors are of its own kind, half a file is put in place.

Drivers are fsspec's: s3fs takes endpoint and keys from AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and
AWS_DEFAULT_REGION, gcsfs from Google's application default credentials.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import fsspec
from fsspec.utils import get_protocol
from upath import UPath

from preprocessing.errors import RunError

_ABSENT = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_FULL = (errno.ENOSPC, errno.EDQUOT)  # of the local disk, on the way to the store
_ERRORS = (  # of the drivers and of what they build on, where these are no OSError
    ("botocore.exceptions", "BotoCoreError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
)
_BUCKETS = ("s3", "s3a", "gs", "gcs")
_SIGNED = re.compile(r"(^|&)(x-(amz|goog)-(signature|credential|security-token)|awsaccesskeyid|sig)=", re.IGNORECASE)


class StoreError(RunError):
    """A store refused or could not be reached: no fault of the file, and trying again later may help."""


def is_local(path: UPath) -> bool:
    """Whether the path is on a disk of this machine, or one that is mounted as such."""
    return path.protocol in ("", "file", "local")


def fresh(path: UPath) -> UPath:
    """The same path as its store shows it now, for whatever another process may have written.

    A driver keeps each listing that it has seen for as long as the process lives: what others wrote since is not
    there, and a file that they rewrote has its former size.
    """
    return path if is_local(path) else UPath(str(path), **{**path.storage_options, "use_listings_cache": False})


def read_text(path: UPath, errors: str = "strict") -> str:
    """A small text file as it stands now, of which another process may put a new one in place at any moment.

    An opened stream would ask for its size first and then fail where the object is another one by then.

    Raises:
        FileNotFoundError: there is none.
        StoreError: the store refuses or cannot be reached.
    """
    if is_local(path):
        return path.read_text(errors=errors)
    with reaching(str(path)):
        return fresh(path).fs.cat_file(path.path).decode(errors=errors)


def open_parts(path: UPath) -> IO[bytes]:
    """Open a file to read parts of it: from a store comes what is read, not the 50 MiB ahead that a driver takes."""
    return path.open("rb") if is_local(path) else fresh(path).open("rb", cache_type="none")


def create(path: UPath, content: bytes) -> bool:
    """Put a new object in place, whole; False if there is one already.

    Of several writers that come at once exactly one gets True on S3 (PUT with `If-None-Match: *`, since 2024; MinIO and
    Ceph know it as well) and on Google Cloud Storage (`ifGenerationMatch=0`). A store that ignores such conditions lets
    the last one win, all the others see its content. Not so good is `open("xb")`: s3fs puts an empty file there without
    any condition.

    Raises:
        StoreError: the store cannot be reached or refuses; there is no such bucket.
    """
    with putting(path):
        try:
            path.fs.pipe_file(path.path, content, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # what S3 answers without saying which condition failed, and where two met
            code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
            if code not in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise
            return False
    return True


@contextmanager
def putting(path: UPath) -> Iterator[None]:
    """`reaching` for what writes; listings that a reader of this process may still hold are forgotten afterwards."""
    try:
        with reaching(str(path)):
            yield
    except FileNotFoundError as error:
        raise StoreError(f"{path} cannot be written: there is no such bucket, create it first ({error})") from error
    UPath(str(path)).fs.invalidate_cache(path.path)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Tell a store's failure from a file that is not there or cannot be used; local paths pass through.

    Raises:
        StoreError: with what to do.
    """
    if is_local(UPath(uri)):
        yield
        return
    try:
        yield
    except _ABSENT:
        raise
    except store_errors() as error:
        if getattr(error, "errno", None) in _FULL:
            raise
        raise StoreError(
            f"{uri}: the store refuses or cannot be reached ({error}). Check the network, the endpoint, the "
            "credentials and their rights, and run the same command again"
        ) from error


def store_errors() -> tuple[type[Exception], ...]:
    """What the drivers in use raise where a store cannot be reached or refuses: OSError, and others that are none."""
    return (OSError, *(getattr(sys.modules[module], name) for module, name in _ERRORS if module in sys.modules))


def credentials_in(uri: str) -> bool:
    """Whether a URI holds a key, a password or a signature, which then would be in every log and report."""
    return any(_holds_credentials(link) for link in uri.split("::"))  # fsspec chains URIs


def _credentials_mistake(field: str) -> str:
    """The message for a field where `credentials_in`; it does not repeat the value."""
    return (
        f"{field}: the URI holds credentials, which would be in every log and report. Leave them out and set "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what else your provider reads, in the environment"
    )


def uri_mistake(field: str, uri: str) -> str:
    """What is wrong with a path or URI, before anything is read: credentials, which are not repeated, or no driver.

    Args:
        field: dotted path of the configuration's field.
        uri: its value.

    Returns:
        The message, "" where there is nothing wrong.
    """
    if credentials_in(uri):
        return _credentials_mistake(field)
    scheme = get_protocol(uri)
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        return f"{field} = {uri}: a package for {scheme}:// is not installed ({error}); there are mps-ams[s3] and [gcs]"
    except ValueError:
        return f"{field} = {uri}: there is no kind of storage called {scheme}://"
    return ""


def _holds_credentials(uri: str) -> bool:
    scheme, _, rest = uri.partition("://")
    path, _, query = rest.partition("?")
    authority = path.partition("/")[0]
    user, at, _ = authority.rpartition("@")
    if scheme.lower() in _BUCKETS:  # no bucket has an @; a secret key may hold a /, where the authority seems to end
        secret = bool(at) or (":" in authority and "@" in path and not authority.startswith("arn:"))
    else:
        secret = ":" in user  # a name alone is no secret: sftp://user@host, abfs://container@account
    return secret or _SIGNED.search(query) is not None
