"""The Python client: `mizzen.Client` and `mizzen.AsyncClient`, for a server's applications.

It knows the HTTP interface alone, and imports nothing of the platform but the base of its errors.
"""

from mizzen.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
