"""The composition root: builds every part, starts and stops them in order.

`host` is the one supervisor process of a machine, `worker` the process that serves; `demo` is what a first start makes.
"""

from meterproxy.service.host import serve

__all__ = ["serve"]
