"""What workers and their jobs import, except Keras: the fork server of `forks` imports this module."""
# ruff: noqa: F401

import os

import core.compression.reference
import jobs.predict_task
import jobs.record_worker
import jobs.train_task
import jobs.upkeep.webhooks
from core.processes import die_with_parent
from jobs.worker import prepare_measuring

die_with_parent(os.getppid())
prepare_measuring()
