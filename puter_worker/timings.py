"""All intervals, time-outs and periods of a worker, in one value that is passed to every part that needs one."""

from __future__ import annotations

import msgspec


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """How long a worker waits, holds and remembers; all values are in seconds.

    Other workers can take over the claims and leases of a dead worker within 15 s: tests/unit/test_takeovers.py.

    Attributes:
        sweep_s: how often a stage runs even if nothing wakes it: a message may have been lost.
        least_gap_s: the least time between the beginnings of two runs of a stage.
        after_error_s: pause of a stage after an error of Redis, of EC2 or of its own.
        after_credentials_error_s: pause before a retry that needs an operator to renew credentials.
        repeated_error_s: a stage's error that stays the same is logged again only after this long.
        policy_s: how often a worker looks whether its policy file has changed.
        health_s: how often a worker announces its health.
        health_look_s: how often it looks whether it is still announced, since Redis may have been emptied.
        health_ttl_s: how long an announcement is valid.
        burst_look_s: how often a worker with `--burst` checks whether anything is left to do.
        idle_look_s: the longest time between two checks of the local engine's worker whether it is still needed.
        server_gone_s: the local engine's worker ends when its server has been gone for this long.
        hangs_after_s: a stage whose run takes longer hangs. It may wait for many calls, each for its turn in the rate
            limit, and every call and every command of Redis has a time-out of its own.
        cancel_again_s: how often the cancellation of a task is repeated until the task has ended.

        keep_s: how long records, and what belongs to them, are kept: at least 30 days after their end.
        longest_put_off_s: no look-up, launch, intent or ingress rule is put off for longer.
        unclaimed_s: a key that another stage must move is looked at again after this.
        restart_s: a key whose job was lost is restarted after this.
        job_timeout_s: time-out of an ensure job, which normally ends much sooner.
        job_lock_s: how long the job of a dead worker stays locked. arq's own locks last ten seconds more than the
            time-out, for jobs that must never run twice at once; an ensure job may.
        place_kept_s: the place of a lost job in the queue is free again after this.
        backlog_again_s: how often tags without a place in arq's queue try again.
        taking_s: how long an intake keeps others from reading the same inbox.
        watched_s: for so long after an inbox was cut, because it filled Redis, whether Redis is full is asked
        watch_s: so often, and not only with every sweep.
        look_through_s: the least time between two looks through all names for such inboxes, while Redis is almost full.

        account_s: how long an ensure job waits to learn the account of its credentials. It is shorter than
            job_timeout_s, because a job that times out cannot write a reason into the record.
        another_worker_s: pause before a retry of what only another worker can do.
        ensure_again_s: pause before a key's ensure job is run again.

        lease_s: how long a leader leads a target without renewing its lease.
        lease_renew_s: how often a leader renews its lease, and how often other workers try to take it over.
        target_look_s: how often a leader looks whether its target has anything left to do.
        target_idle_s: a target that has had nothing for so long is given up; the next request has it led again. A
            namespace's targets count for so long after it last had something there.
        look_up_claim_s: how long one worker holds a claim on look-ups.
        look_up_apart_s: the least time between look-ups that do not fill a call: each costs a token.
        look_up_idle_s: a look-up that is not full begins when no key was added for this long,
        look_up_longest_s: and at the latest after this.
        look_up_again_s: pause before a key is looked up again.
        stale_view_s: how long EC2 may still show a machine as alive that the record knows to have ended.

        batch_idle_s: a launch that is not full begins when its batches are complete and no key was added for this
            long,
        batch_longest_s: and at the latest after this.
        prepare_s: how long preparing the image, key pair and security group of a launch may take.
        launch_again_s: pause before a launch that could not be prepared is tried again.
        place_again_s: the longest time between two looks at a key that waits for capacity or quota.
        parallel_again_s: how often a key that waits for its batch's max_parallel is looked at.
        after_interruption_s: pause after a launch that an error of Redis interrupted.
        intent_lease_s: how long one worker holds an intent's lease without renewing it.
        intent_renew_s: how often it renews that lease.
        shut_s: how often a leader whose target is in quarantine checks whether it may launch.
        send_again_s: pause before an intent is sent again; doubled after each send.
        send_again_longest_s: the longest such pause.
        second_look_s: instances that a look-up misses are looked for again after this; EC2 gives no bound for how long
            a new instance may stay unseen, in practice it is seconds. What was missed over this stretch counts as gone.
        safe_to_repeat_s: after this it is not known whether EC2 still remembers a ClientToken.
        in_flight_s: a launch reaches EC2 at the latest this long after it was sent: sdk_read_s.
        remembered_s: EC2 shows everything that was launched longer ago than this.

        explain_s: how often waits are explained.
        explain_after_s: a shorter wait needs no explanation.
        no_capacity_s: how long nothing is launched in a place that had no capacity.
        prefer_spot_s: for how long Spot must have been refused in every place before On-Demand is taken instead.
        refusals_end_s: a place that nobody has tried for so long after its pause counts as not refused.
        quota_s: how long nothing is launched under a quota that was reached.
        quota_freed_s: pause before a quota is tried again when a machine shuts down: it counts until it has ended.

        label_claim_s: how long one worker holds a claim on labels.
        label_again_s: pause before a refused label is written again.
        label_refused_s: the same, after a refusal that repeating will hardly change.
        newborn_s: EC2 may refuse tags for an instance younger than this, because it does not show it yet.
        ingress_claim_s: how long one worker holds a claim on ingress rules.

        order_claim_s: how long one worker holds a claim on orders.
        order_again_s: pause before an order that EC2 refused is written again.
        order_refused_s: the same, after a refusal that repeating will hardly change.
        order_confirm_s: how often the console of a machine is read until it says that its agent has the order.
        order_confirm_within_s: an agent that has not said so by then is not expected to.

        failures_claim_s: how long one worker holds a claim on a batch of which one has failed.
        failures_again_s: pause before what is left of a batch with too many failures is looked at again.

        result_claim_s: how long one worker holds a claim on consoles.
        result_again_s: how often the console of a machine that stays after its workload is read; also the pause after
            an error of EC2.
        result_live_s: a console is still read as it is now, not as it was stored, this long after the machine's end.
        result_reads_s: at how long after a machine's end its console is read, until it has an end frame: EC2 stores
            what was written on it some time after the end, and gives no bound.
        result_longest_s: no reading of a console is put off for longer.

        console_claim_s: how long one worker holds a claim on consoles that somebody wants to see.
        console_again_s: the least time between two such readings of one machine's console.
        console_room_s: pause while the rate limit leaves no room for them.
        console_kept_s: how long what was read is published.

        starting_s: how often machines that start are looked at: their owners wait for the address.
        address_s: EC2 may show a machine as running this long before it shows its public address.
        ending_s: for how long machines that were told to stop are looked at as often as those that start: a workload
            has 30 s, then its machine ends itself, and EC2 takes its time to end it.
        awaited_s: how often running machines are looked at while keys wait for one of them to end.
        reread_s: how long an observer uses a record as it last read or wrote it.
        overdue_s: a machine is shown as overdue this long after its deadline: shutting down takes a moment.
        forgotten_s: EC2 shows an ended instance for about an hour; a machine that it has not shown for this long, and
            that several looks have missed, has ended.

        sdk_connect_s: connect time-out of the SDK.
        sdk_read_s: how long the SDK waits for AWS's answer.
        group_seen_s: pauses between looks for a security group that was just made; EC2 gives no bound for how long it
            may not show one.
        credentials_s: how long the credentials of a profile may take to be resolved; then the programs that do it are
            ended. It is the limit of the AWS SDKs for Go and Java for a credential_process.
        credentials_told_s: how long a call waits for credentials before it is told what it waits for. It is shorter
            than account_s, within which an ensure job has to write the reason.
        credentials_again_s: pause before credentials that failed, or were refused, are resolved again. It is shorter
            than after_credentials_error_s, so that each retry of a stage finds a new result.
        credentials_last_s: credentials that expire within this are not used for another call, which takes up to
            sdk_connect_s and sdk_read_s.
        credentials_early_apart_s: the least time between two attempts to renew credentials that are still good.
        credentials_drain_s: the limit in place of credentials_s for a worker that is about to end.
        process_ends_s: how long a credential_process that is given up may take to end after SIGTERM.
        profiles_s: how long the list of this host's AWS profiles is cached.
        unsure_after_s: how long a leader waits to learn the account of its credentials,
        unsure_s: and how long it waits before the next attempt if it got no answer.
        unsure_kept_s: a target that may hold forgotten machines is waited for as long as some worker that remembers a
            launch there has said so within this.
        target_cache_s: how long images, key pairs and groups are cached: a new image is noticed after it.
        no_type_s: how long it is remembered that there is no instance type of a name.
        unlabelled_cache_s: how long the list of machines without their own tags is cached.

        slow_s: how long the rate is lower after EC2 has refused a call because of its rate limit.
        arrives_s: a reserved token whose worker has died counts as spent after this.
        longest_nap_s: a longer wait for a token is split into sleeps of this length, to notice a rate that has
            recovered.
    """

    sweep_s: float = 5.0
    least_gap_s: float = 0.01
    after_error_s: float = 1.0
    after_credentials_error_s: float = 5.0
    health_s: float = 10.0
    health_look_s: float = 2.0
    policy_s: float = 2.0
    repeated_error_s: float = 60.0
    health_ttl_s: int = 30
    burst_look_s: float = 0.03
    idle_look_s: float = 10.0
    server_gone_s: float = 60.0
    cancel_again_s: float = 0.5
    hangs_after_s: float = 600.0

    keep_s: int = 31 * 86_400
    longest_put_off_s: float = 60.0
    unclaimed_s: float = 600.0
    restart_s: float = 14.0
    job_timeout_s: float = 10.0
    job_lock_s: float = 12.0
    place_kept_s: float = 60.0
    backlog_again_s: float = 0.05
    taking_s: float = 2.0
    watched_s: float = 600.0
    watch_s: float = 0.2
    look_through_s: float = 10.0

    account_s: float = 6.0
    another_worker_s: float = 0.5
    ensure_again_s: float = 2.0

    lease_s: float = 3.0
    lease_renew_s: float = 1.0
    target_look_s: float = 30.0
    target_idle_s: float = 600.0
    look_up_claim_s: float = 12.0
    look_up_apart_s: float = 0.2
    look_up_idle_s: float = 0.1
    look_up_longest_s: float = 1.0
    look_up_again_s: float = 2.0
    stale_view_s: float = 60.0

    batch_idle_s: float = 0.03
    batch_longest_s: float = 0.3
    prepare_s: float = 60.0
    launch_again_s: float = 5.0
    place_again_s: float = 5.0
    parallel_again_s: float = 1.0
    after_interruption_s: float = 1.0
    intent_lease_s: float = 10.0
    intent_renew_s: float = 3.0
    shut_s: float = 0.5
    send_again_s: float = 2.0
    send_again_longest_s: float = 60.0
    second_look_s: float = 30.0
    safe_to_repeat_s: float = 900.0
    in_flight_s: float = 30.0
    remembered_s: float = 600.0

    explain_s: float = 5.0
    explain_after_s: float = 2.0
    no_capacity_s: float = 60.0
    prefer_spot_s: float = 120.0
    refusals_end_s: float = 600.0
    quota_s: float = 60.0
    quota_freed_s: float = 2.0

    label_claim_s: float = 12.0
    label_again_s: float = 2.0
    label_refused_s: float = 300.0
    newborn_s: float = 60.0
    ingress_claim_s: float = 14.0

    order_claim_s: float = 12.0
    order_again_s: float = 2.0
    order_refused_s: float = 60.0
    order_confirm_s: float = 8.0
    order_confirm_within_s: float = 60.0

    failures_claim_s: float = 12.0
    failures_again_s: float = 1.0

    result_claim_s: float = 12.0
    result_again_s: float = 15.0
    result_live_s: float = 30.0
    result_reads_s: tuple[float, ...] = (0.0, 15.0, 60.0, 180.0, 600.0, 1_200.0)
    result_longest_s: float = 1_200.0

    console_claim_s: float = 12.0
    console_again_s: float = 10.0
    console_room_s: float = 1.0
    console_kept_s: int = 60

    starting_s: float = 2.0
    address_s: float = 10.0
    ending_s: float = 120.0
    awaited_s: float = 2.0
    reread_s: float = 300.0
    overdue_s: float = 300.0
    forgotten_s: float = 3_600.0

    sdk_connect_s: float = 5.0
    sdk_read_s: float = 30.0
    group_seen_s: tuple[float, ...] = (0.2, 0.4, 0.8, 1.6, 3.0)
    credentials_s: float = 60.0
    credentials_told_s: float = 3.0
    credentials_again_s: float = 4.0
    credentials_last_s: int = 60
    credentials_early_apart_s: float = 60.0
    credentials_drain_s: float = 2.0
    process_ends_s: float = 1.0
    profiles_s: float = 5.0
    unsure_after_s: float = 2.0
    unsure_s: float = 5.0
    unsure_kept_s: float = 30.0
    target_cache_s: float = 600.0
    no_type_s: float = 300.0
    unlabelled_cache_s: float = 10.0

    slow_s: float = 20.0
    arrives_s: float = 5.0
    longest_nap_s: float = 2.0
