"""User data: what a machine does at boot, as the bytes that RunInstances takes.

In this order, so that nothing of what comes later can keep a machine from ending itself: its deadline, `at` as the
deadline's handle, Docker, the workload, the user's own part. The scripts stand beside this file; what they keep on
the machine:

```
/var/lib/puter/deadline        seconds since 1970, written once, at the first boot
/var/lib/puter/at-job          the number of at's job, once `at` has taken the deadline over
/var/lib/puter/instance        whose state this is: an image of the disk takes it along
/var/lib/puter/workload.exit   the workload's exit code, once it is known
/var/log/puter/workload.log    what the workload printed
```
"""

from puter_worker.ec2.userdata.compose import Boot, Machine, UserDataTooLarge, compose

__all__ = ["Boot", "Machine", "UserDataTooLarge", "compose"]
