"""QIMEM: encryption as a service, an OAuth 2 / OpenID Connect identity service and their one HTTP API.

The package promises two names to other programs, the version and the root of the error tree;
everything else is reached over HTTP, with the wire types of `qimem.wire`.
"""

from qimem.errors import QimemError

__version__ = "0.1.0"

__all__ = ["QimemError", "__version__"]
