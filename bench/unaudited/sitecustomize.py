"""Put into the server's path by the bench alone: a product that records nothing, to show what the record costs.

Python imports a module of this name at its start. No option of the product does this.
"""

from qimem.audit.recorder import AuditRecorder


def _record(*what):
    what[-1](None)


AuditRecorder.record = _record
