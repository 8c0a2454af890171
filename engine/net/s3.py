"""An object store in a bucket of S3, or of a server that speaks its protocol (MinIO, Ceph, R2, and others).

An object is created by a conditional PUT (`If-None-Match: *`): of any number of processes that create one
object exactly one succeeds. A server that ignores the condition is no store for archives, and whoever has
a bucket made a store (`make`) is told so.

Where the bucket is and who we are comes from the usual environment variables: AWS_ENDPOINT_URL_S3 or
AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION or
AWS_DEFAULT_REGION; without keys, what a container or a machine of the cloud is given is asked for. Profiles
(AWS_PROFILE, ~/.aws) are not read.

Every request has a time limit and is tried again a few times, for so long at most. A `create` whose answer
was lost and that is tried again finds its own object: ObjectExists, as the port has it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Self

import obstore.exceptions
import obstore.store

from engine.errors import ConfigError, ObjectExists, ObjectMissing, Unavailable
from engine.objects import check_key

if TYPE_CHECKING:
    from obstore.store import S3Config

SCHEME = "s3://"
REQUEST_S = 30.0
CONNECT_S = 5.0
RETRIES = 3
RETRY_S = 45.0
"""Nothing is begun again after so long; the caller has a patience of its own."""

TEXT_MAX = 300
_MARK = ".sextet-objects"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_DENIED = frozenset(
    ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken")
)


@dataclass(frozen=True, slots=True)
class BucketName:
    """s3://BUCKET or s3://BUCKET/PREFIX, where keys are put below PREFIX/."""

    bucket: str
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ConfigError if it cannot be one."""
        bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
        prefix = prefix.rstrip("/")
        if not url.startswith(SCHEME) or not _BUCKET.fullmatch(bucket):
            raise ConfigError(f"{url} names no bucket: give s3://BUCKET or s3://BUCKET/PREFIX")
        if prefix:
            check_key(prefix)
        return cls(bucket, prefix)

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def missing_credentials(environ: Mapping[str, str]) -> str:
    """What a user who has set nothing should set, "" if something is set."""
    if environ.get("AWS_ACCESS_KEY_ID"):
        return "" if environ.get("AWS_SECRET_ACCESS_KEY") else "AWS_SECRET_ACCESS_KEY is not set"
    given = ("AWS_CONTAINER_CREDENTIALS", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE")
    if any(name.startswith(given) for name in environ):
        return ""
    profile = "; AWS_PROFILE is not read" if environ.get("AWS_PROFILE") else ""
    return f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set{profile}"


class S3Objects:
    """ObjectStore port over one bucket, or what lies below one prefix of it.

    Nothing is asked before the first call. Raises ConfigError if the name or the environment cannot be.
    """

    def __init__(
        self,
        name: BucketName,
        environ: Mapping[str, str],
        *,
        request_s: float = REQUEST_S,
        retries: int = RETRIES,
    ) -> None:
        self._name = name
        self._missing = missing_credentials(environ)
        self._endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL") or ""
        try:
            self._store = obstore.store.S3Store(
                name.bucket,
                prefix=name.prefix or None,
                config=_config(environ, self._endpoint),
                client_options={
                    # Whoever gives an http:// address means it.
                    "allow_http": self._endpoint.startswith("http://"),
                    "timeout": timedelta(seconds=request_s),
                    "connect_timeout": timedelta(seconds=min(CONNECT_S, request_s)),
                },
                retry_config={"max_retries": retries, "retry_timeout": timedelta(seconds=RETRY_S)},
            )
        except (obstore.exceptions.BaseError, ValueError) as error:
            why = self._missing or _first_line(error)
            raise ConfigError(f"{name} cannot be used: {why}") from error

    def close(self) -> None:
        """Connections end with the object."""

    async def create(self, key: str, data: bytes) -> None:
        check_key(key)
        with self._mapped(key):
            await self._store.put_async(key, data, mode="create", use_multipart=False)

    async def read(self, key: str) -> bytes:
        check_key(key)
        with self._mapped(key):
            found = await self._store.get_async(key)
            return bytes(await found.bytes_async())

    async def keys(self, prefix: str = "") -> list[str]:
        found: list[str] = []
        above = prefix.rpartition("/")[0]  # what is listed is whole folders, in order
        with self._mapped(above):
            async for some in self._store.list(above or None, offset=prefix[:-1] or None):
                paths = [meta["path"] for meta in some]
                found += [p for p in paths if p.startswith(prefix) and not p.startswith(".")]
                if paths[-1] > prefix and not paths[-1].startswith(prefix):
                    break
        return sorted(found)

    async def delete(self, key: str) -> None:
        check_key(key)
        with self._mapped(key), contextlib.suppress(ObjectMissing):
            await self._store.delete_async(key)

    def make(self) -> None:
        """See that it can be listed and written, and that what exists is never written again; that leaves a
        mark. Blocks until that is known. Raises Unavailable, and ConfigError if it overwrites."""
        with self._mapped(_MARK):
            for _ in self._store.list(chunk_size=1):
                break
        for _ in range(2):
            try:
                with self._mapped(_MARK):
                    self._store.put(_MARK, b"", mode="create", use_multipart=False)
            except ObjectExists:
                return
        raise ConfigError(
            f"{self._name}: {self._endpoint or 'AWS'} overwrites what exists, though asked not to "
            "(If-None-Match), so it cannot keep archives; choose another server"
        )

    # -- what went wrong

    @contextlib.contextmanager
    def _mapped(self, key: str) -> Iterator[None]:
        """Turns what the library raises into what the port promises."""
        try:
            yield
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            raise self._translated(key, error) from error

    def _translated(self, key: str, error: Exception) -> ObjectExists | ObjectMissing | Unavailable:
        text = str(error)
        found = _CODE.search(text)
        code = found[1] if found is not None else ""
        if code == "NoSuchKey":
            return ObjectMissing(f"{self._name} has no {key}")
        if code == "PreconditionFailed":
            return ObjectExists(f"{self._name}/{key} exists already")
        return Unavailable(f"{self._name}: {self._advice(code, text)}")

    def _advice(self, code: str, text: str) -> str:
        where = self._endpoint or "AWS"
        told = _MESSAGE.search(text)
        words = told[1] if told is not None else ""
        if code == "NoSuchBucket":
            return f"{where} has no bucket {self._name.bucket}; create it, or name another"
        if code in _DENIED:
            return f"{where} denies access ({code}: {words}); look at the keys and their policy"
        if code:
            return f"{where} answers {code}: {words}"
        if self._missing:
            return f"no credentials: {self._missing}; they count as they were for `sextet up`"
        if self._endpoint:
            return f"{where} does not answer as S3 does; is AWS_ENDPOINT_URL right? {_first_line(text)}"
        return f"S3 cannot be used; for another server set AWS_ENDPOINT_URL. {_first_line(text)}"


def _config(environ: Mapping[str, str], endpoint: str) -> S3Config:
    """What the library would find by itself in the process's environment, and in no other."""
    found: S3Config = {
        "region": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    }
    if endpoint:
        found["endpoint"] = endpoint
    if environ.get("AWS_ACCESS_KEY_ID"):
        found["access_key_id"] = environ["AWS_ACCESS_KEY_ID"]
    if environ.get("AWS_SECRET_ACCESS_KEY"):
        found["secret_access_key"] = environ["AWS_SECRET_ACCESS_KEY"]
    if environ.get("AWS_SESSION_TOKEN"):
        found["session_token"] = environ["AWS_SESSION_TOKEN"]
    return found


def _first_line(error: object) -> str:
    return " ".join(str(error).partition("\n")[0].split())[:TEXT_MAX]
