"""Azure Blob Storage: `az://container/folder`. Not run by the project's tests.

The account and its credentials are those of the environment: AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY…
"""

from typing import Any

from selector.storage._objects import ObjectStorage


class AzStorage(ObjectStorage):
    """Objects in a container of Azure Blob Storage."""

    scheme = "az"

    def open_bucket(self, **options: Any) -> Any:
        from obstore.store import AzureStore

        return AzureStore(container_name=self.bucket, **options)
