"""The worker: one process that serves, from its socket to its journal.

It answers at once: health truthfully, everything else with 503 until its ledger has recovered and PostgreSQL trusts it.
On SIGTERM it stops accepting, lets running exchanges finish within `drain_seconds`, captures what is left as broken,
settles its journal to the end and gives its leases back.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from pathlib import Path
from typing import Final
from uuid import UUID

import uvloop

from meterproxy.catalog import Catalog
from meterproxy.config import Config
from meterproxy.control.operator import Machine, OperatorApi
from meterproxy.core.lending import Change
from meterproxy.errors import ApiError, Case, JournalFailed, MeterproxyError, StoreUnavailable
from meterproxy.ledger.recover import OpenHoldPolicy
from meterproxy.ledger.worker import WorkerLedger
from meterproxy.proxy.client import Client
from meterproxy.proxy.server import Dispatch, HttpServer
from meterproxy.runtime import logs
from meterproxy.runtime.metrics import CONTENT_TYPE, Metrics
from meterproxy.runtime.parent import die_with_parent, on_parent_gone, say_failed, say_ready
from meterproxy.runtime.tasks import SideTasks
from meterproxy.runtime.tokenizer import TokenizerClient
from meterproxy.service import observe, providers
from meterproxy.service.handover import Handover, take_over
from meterproxy.store.accounts import Accounts
from meterproxy.store.directory import KeyDirectory
from meterproxy.store.explain import explain
from meterproxy.store.keys import Keys
from meterproxy.store.migrate import SchemaError
from meterproxy.store.pool import open_pool
from meterproxy.store.sessions import Sessions
from meterproxy.store.settle import Settlement
from meterproxy.store.upkeep import make_partitions, self_test
