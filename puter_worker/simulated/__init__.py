"""An EC2 on this computer, for `puter demo`: moto, with machines that run their workloads as ordinary processes."""
