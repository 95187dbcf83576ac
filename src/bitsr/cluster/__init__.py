"""Batches of images: on the cores of this machine, or on a cluster by Ray Data.

``plan`` lists the images and names their outputs, ``run`` goes through them and remembers what is
done. The work on one image is a ``Worker`` in both cases, so the bytes are the same.
"""

from . import on_ray, pool
from .plan import Plan, Task, plan
from .run import KEPT, run
from .worker import Row, Worker

__all__ = ["KEPT", "Plan", "Row", "Task", "Worker", "on_ray", "plan", "pool", "run"]
