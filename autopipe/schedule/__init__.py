"""Schedules as data: builders by name, passes from schedule to schedule, and the simulator.

``build`` gives a schedule of computes, ``insert_comms`` adds the messages, ``simulate`` times either.
"""

from __future__ import annotations

from autopipe.schedule.comms import insert_comms
from autopipe.schedule.forward_only import forward_only
from autopipe.schedule.in_flight import in_flight
from autopipe.schedule.registry import build, check_size, schedule_names
from autopipe.schedule.simulate import simulate

__all__ = ["build", "check_size", "forward_only", "in_flight", "insert_comms", "schedule_names", "simulate"]
