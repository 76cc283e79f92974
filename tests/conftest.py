"""What holds for all tests."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# A machine may be slow or busy: no test fails for the time it takes.
settings.register_profile("puter", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("puter")
# Whoever runs the tests in the background of a shell has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
