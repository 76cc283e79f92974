"""User data: what a machine does at boot, as the bytes that RunInstances expects.

The parts run in this order, so that no later part can keep a machine from ending itself: its deadline, `at` (through
which its owner can see and cancel the deadline), Docker, the workload, the user's own part. The scripts are beside this
file; on the machine they keep:

```
/var/lib/puter/deadline        seconds since 1970, written once, at the first boot
/var/lib/puter/at-job          the number of at's job, once `at` has taken the deadline over
/var/lib/puter/instance        id of the instance that this state belongs to: an image of the disk copies the state
/var/lib/puter/workload.end    how the workload ended, once that is known: result, exit code, times, reason
/var/log/puter/workload.log    what the workload printed
```
"""

from puter_worker.ec2.userdata.compose import Boot, Machine, compose

__all__ = ["Boot", "Machine", "compose"]
