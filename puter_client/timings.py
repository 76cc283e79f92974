"""Every interval and limit of time that the client uses; tests pass shorter ones."""

from __future__ import annotations

import msgspec


class ClientTimings(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals and limits of the client, all in seconds; the defaults are those of the commands.

    Attributes:
        answer_s: limit for Redis's answer to one command, with all that connecting takes. What a hanging Redis is told
            of comes within 5 s, with the time that a command takes to begin and to end.
        replicated_s: how long a replica may take to confirm requests, where Sentinels may make it the primary.
        close_s: limit for closing connections at the end.
        outlast_s: how long a command that waits goes on without a Redis that has answered before.
        outlast_again_s: pause before such a Redis is asked again.
        outlast_line_s: pause between two lines that tell of it.
        read_again_s: how often a wait reads everything again, since a message of the channel may be lost.
        recent_s: how long an ended machine is listed without `--all`.
        observed_within_s: age from which a worker has compared every live machine with EC2 at least once.
        stale_after_s: a machine that EC2 has not shown for so long is not looked after; workers look every 25 s.
        look_every_s: pause between two reads while something is awaited that nothing announces.
        worker_silent_after_s: a worker that announced nothing for so long counts as gone; its health expires then.
        reconcile_s: how long a command waits until a new worker has compared live machines with EC2.
        worker_tells_within_s: how long a worker may take to announce itself anew after Redis was emptied: it looks
            every 2 s, and sooner if a client calls it, which a viewer may not.
        worker_starts_within_s: how long a command waits for a worker that was started together with it.
        worker_gone_after_s: how long a wait goes on without a worker; one that replaces another comes sooner.
        revive_every_s: how often a command checks that the engine's worker has not died.
        rows_within_s: how long no further row of a batch may come, with its user's inbox empty, before the others count
            as gone.
        taken_within_s: how long `--batch last` waits until workers have taken what was submitted just now.
        cancel_answer_s: how long `cancel` waits without a further answer; it waits on while answers come.
        order_quiet_s: how long `stop` and `extend` wait for machines of which none reacts any more.
        console_fresh_s: a console that was read for somebody so long ago need not be read again; workers read one
            machine's console at most as often.
        console_answer_s: how long a worker may take to read a console.
        follow_again_s: pause before a machine whose log is followed is tried again.
        cancel_unknown_s: how long `cancel` waits for a tag that no worker knows; then it was never requested.
        stage_failing_after_s: age of a failing stage from which `local status` warns; most errors end sooner.
        stage_hangs_after_s: how long a run of a stage may take before `worker --health` says that it hangs.
        status_refresh_s: pause between two tables of `status --watch`.
        progress_line_s: pause between two progress lines where the output is no terminal.
        progress_draw_s: pause between two drawings of a progress bar; 10,000 tags change faster than anybody reads.
        own_address_s: limit for the look-up of this computer's own address.
        demo_wait_s: how long `demo` may take.
        demo_aws_starts_within_s: limit for the start of the simulated AWS.
        demo_aws_ends_within_s: how long the simulated AWS may take to end before it is killed.
        poll_s: pause between two looks at a lock, file or process of the engine; a server starts in about 20 ms.
        server_ping_s: limit for the answer to one PING.
        server_answer_s: how long the engine's server may take to answer, or to end.
        server_load_s: how long the engine's server may take to read its data; 1 GB takes about 10 s.
        server_wakes_within_s: limit for a stopped server to answer after SIGCONT.
        server_heeds_within_s: limit for a silent server to end after SIGTERM, before it is killed.
        server_dies_within_s: how long a killed server may hold its lock, until the last of its threads is gone.
        server_shutdown_s: limit for the server's end in order when its idle worker ends it.
        worker_ready_s: how long the engine's worker may take to serve; it imports an SDK of 20 MB.
        worker_drain_s: how long the engine's worker may take to end before it is killed.
        worker_drain_without_server_s: the same where no server answers, so that nothing more can be written.
        lock_glance_s: how long a lock is tried that other commands hold for a moment only.
        engine_busy_s: how long a command waits for another one that is starting or ending the engine.
    """

    answer_s: float = 3.0
    replicated_s: float = 1.0
    close_s: float = 0.3
    outlast_s: float = 30.0
    outlast_again_s: float = 0.5
    outlast_line_s: float = 5.0
    read_again_s: float = 2.0
    recent_s: float = 86_400.0
    observed_within_s: float = 60.0
    stale_after_s: float = 60.0
    look_every_s: float = 0.1
    worker_silent_after_s: float = 30.0
    reconcile_s: float = 10.0
    worker_tells_within_s: float = 2.5
    worker_starts_within_s: float = 5.0
    worker_gone_after_s: float = 15.0
    revive_every_s: float = 2.0
    rows_within_s: float = 30.0
    taken_within_s: float = 2.0
    cancel_answer_s: float = 10.0
    order_quiet_s: float = 60.0
    console_fresh_s: float = 10.0
    console_answer_s: float = 30.0
    follow_again_s: float = 5.0
    cancel_unknown_s: float = 2.0
    stage_failing_after_s: float = 60.0
    stage_hangs_after_s: float = 600.0
    status_refresh_s: float = 2.0
    progress_line_s: float = 2.0
    progress_draw_s: float = 0.1
    own_address_s: float = 2.0
    demo_wait_s: float = 300.0
    demo_aws_starts_within_s: float = 60.0
    demo_aws_ends_within_s: float = 10.0
    poll_s: float = 0.02
    server_ping_s: float = 1.0
    server_answer_s: float = 10.0
    server_load_s: float = 300.0
    server_wakes_within_s: float = 2.0
    server_heeds_within_s: float = 3.0
    server_dies_within_s: float = 0.5
    server_shutdown_s: float = 30.0
    worker_ready_s: float = 60.0
    worker_drain_s: float = 30.0
    worker_drain_without_server_s: float = 2.0
    lock_glance_s: float = 2.0
    engine_busy_s: float = 120.0


DEFAULT_TIMINGS = ClientTimings()
