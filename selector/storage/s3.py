"""Amazon S3 and what speaks its protocol: `s3://bucket/folder`.

Credentials, region and endpoint are those of the environment: AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL…
"""

from typing import Any

from selector.storage._objects import ObjectStorage


class S3Storage(ObjectStorage):
    """Objects in a bucket of S3."""

    scheme = "s3"

    def open_bucket(self, **options: Any) -> Any:
        from obstore.store import S3Store

        return S3Store(self.bucket, conditional_put="etag", **options)
