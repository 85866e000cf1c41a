"""Google Cloud Storage: `gs://bucket/folder`. Not run by the project's tests: no server for tests does what it does.

Credentials are those of the environment: GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT…
"""

from typing import Any

from selector.storage._objects import ObjectStorage


class GsStorage(ObjectStorage):
    """Objects in a bucket of Google Cloud Storage."""

    scheme = "gs"

    def open_bucket(self, **options: Any) -> Any:
        from obstore.store import GCSStore

        return GCSStore(self.bucket, **options)
