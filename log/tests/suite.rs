//! Tests of the invariants of [`emostream_log::Log`] on the embedded log in memory, on the embedded log on disk, and on
//! Kafka; and tests of one implementation only.

#![allow(clippy::unwrap_used)] // a failed test panics

#[path = "suite/embedded.rs"]
mod embedded;
#[path = "suite/fixture.rs"]
mod fixture;
#[path = "suite/kafka.rs"]
mod kafka;
#[path = "suite/rules.rs"]
mod rules;

/// Creates a test of every rule on one kind of log. Each test has its own log.
macro_rules! suite {
    ($kind:ident: $($rule:ident)*) => {
        mod $kind {
            $(
                #[test]
                fn $rule() {
                    crate::rules::$rule(&crate::fixture::$kind());
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
    offsets_rise_and_the_stored_range_is_returned
    a_new_topic_has_offsets
    offsets_are_those_of_every_partition_in_order
    an_existing_topic_is_not_changed
    a_topic_is_described_as_it_was_created
    a_key_keeps_its_partition
    a_record_without_key_goes_to_the_first_partition
    a_waiting_reader_is_woken_by_an_append
    records_that_a_poll_leaves_unread_are_followed_by_a_wake_up
    a_reader_knows_when_it_is_at_the_end
    a_reader_resumes_from_its_position
    a_record_that_is_not_consumed_is_first_in_the_next_poll
    partitions_are_read_independently
    a_transaction_over_three_topics_is_atomic
    written_records_are_read_after_the_next_commit
    written_records_of_a_dropped_transactor_are_never_read
    no_record_of_a_refused_transaction_is_read
    an_older_transactor_is_fenced
    a_failed_transactor_refuses_further_commits
    two_transactors_of_different_ids_do_not_fence_each_other
    an_offset_outside_the_log_is_expired
    an_unknown_topic_is_an_error_of_every_method
    an_unknown_partition_is_an_error
    offsets_at_are_the_first_of_that_time_or_later
    a_record_too_far_ahead_is_refused
    a_record_too_large_is_refused
    a_full_queue_is_an_error_and_recovers
    appends_of_many_threads_are_stored_once_each
    a_dropped_appender_still_calls_done
}
