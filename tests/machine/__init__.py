"""Machines that really boot: Debian with systemd, cloud-init and at, as the instances of the simulated EC2.

Read it from the inside out: `root` builds the disk that all machines start from, `image` makes it look like one of the
images that Puter knows, `netns` gives a machine its network, `metadata` is what answers there, `machine` boots, and
`world` ties machines to the instances of `tests.ec2sim`. `make machine-test` runs the tests.
"""
