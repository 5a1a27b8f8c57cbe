//! One suite for every log: what the trait promises, kept by the embedded log in memory, by the embedded
//! log on disk, and by Kafka. Beside it, what only one of them has to promise.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

#[path = "suite/embedded.rs"]
mod embedded;
#[path = "suite/kafka.rs"]
mod kafka;
#[path = "suite/rules.rs"]
mod rules;
#[path = "suite/stage.rs"]
mod stage;

/// Runs every rule on a log of its own.
macro_rules! suite {
    ($kind:ident: $($rule:ident)*) => {
        mod $kind {
            $(
                #[test]
                fn $rule() {
                    crate::rules::$rule(&crate::stage::$kind());
                }
            )*
        }
    };
}

macro_rules! on_every_log {
    ($($rule:ident)*) => {
        mod on {
            suite!(in_memory: $($rule)*);
            suite!(on_disk: $($rule)*);
            suite!(on_kafka: $($rule)*);
        }
    };
}

on_every_log! {
    a_record_is_read_as_it_was_written
    offsets_rise_and_tell_what_is_kept
    a_topic_just_made_tells_its_offsets
    offsets_are_those_of_every_partition_in_order
    an_existing_topic_is_left_as_it_is
    a_topic_is_described_as_it_was_made
    a_key_keeps_its_partition
    a_record_without_key_goes_to_the_first_partition
    a_sleeping_reader_is_woken_by_an_append
    what_a_poll_leaves_behind_rings_later
    a_reader_knows_when_it_is_at_the_end
    a_reader_resumes_from_its_position
    a_record_that_is_not_consumed_begins_the_next_poll
    partitions_are_read_independently
    a_transaction_over_three_topics_appears_whole
    what_is_written_is_read_with_the_commit_that_follows
    what_is_written_and_dropped_is_never_read
    a_refused_transaction_leaves_no_trace
    an_older_transactor_is_fenced
    a_failed_transactor_is_of_no_more_use
    two_transactors_of_different_ids_do_not_fence_each_other
    an_offset_outside_the_log_is_expired
    an_unknown_topic_is_told_everywhere
    an_unknown_partition_is_told
    offsets_at_are_the_first_of_that_time_or_later
    a_record_too_far_ahead_is_refused
    a_record_too_large_is_refused
    a_full_queue_says_so_and_recovers
    appends_of_many_threads_are_there_once_each
    a_dropped_appender_still_answers
}
