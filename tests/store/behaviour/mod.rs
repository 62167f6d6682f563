//! The promises of the `Store` trait, one sentence each. A store joins by a [`Home`] and one line.

mod broadcasts;
mod claims;
mod dead_letters;
mod delivery;
mod devices;
mod dismissals;
mod erasure;
mod inbox;
mod preferences;
mod scheduled;
mod segments;
mod suppressions;
mod sync;

pub use {
    broadcasts::*, claims::*, dead_letters::*, delivery::*, devices::*, dismissals::*, erasure::*,
    inbox::*, preferences::*, scheduled::*, segments::*, suppressions::*, sync::*,
};

use herald::{
    dispatcher::store::{Appended, Row, SharedStore},
    position::Position,
};

/// Where a store lives. Opened again, it holds everything that was answered before.
pub trait Home {
    fn open(&self) -> SharedStore;
}

/// Makes a test of each sentence for one kind of home.
macro_rules! every_behaviour_holds_in {
    ($home:expr) => {
        $crate::behaviour::every_behaviour_holds_in! { $home =>
            a_row_follows_the_head_its_user_had
            rows_of_one_call_follow_each_other
            a_row_stored_again_answers_where_it_stands
            the_lowest_position_wins_when_an_id_comes_again
            a_row_that_reached_a_device_answers_written
            a_position_below_the_head_that_was_never_stored_is_refused_loudly
            a_refused_row_takes_nothing_of_its_call_with_it
            what_was_answered_is_there_after_opening_again
            chains_have_no_gap_under_concurrent_batches_of_many_users
            sync_brings_rows_after_the_cursor_and_says_how_far_it_got
            sync_leaves_out_superseded_rows_and_covers_them
            sync_over_many_superseded_rows_is_bounded_and_goes_on
            sync_without_a_cursor_brings_the_newest_and_the_head
            a_cursor_above_the_head_is_not_called_complete
            an_unknown_user_has_an_empty_stream
            a_read_mark_takes_a_position_and_marks_its_ids
            a_read_mark_of_a_broadcast_counts_for_its_user_only
            a_read_mark_that_cannot_be_parsed_is_refused
            pages_show_notifications_newest_first
            a_row_is_found_by_its_id
            unread_counts_what_is_neither_read_superseded_nor_expired
            broadcasts_form_one_stream
            broadcasts_of_one_call_stand_one_behind_the_other_or_not_at_all
            a_broadcast_stored_again_answers_the_same_prev
            a_broadcast_of_a_known_id_makes_no_second_row
            a_broadcast_is_found_by_its_id
            sync_of_broadcasts_goes_by_pages
            delivery_states_only_move_forward
            the_furthest_gateway_gives_the_state_and_its_devices
            an_outcome_reported_twice_counts_once
            outcomes_of_a_broadcast_are_counted_by_gateway_and_kind
            what_a_client_says_of_an_id_its_user_does_not_have_leaves_nothing
            what_a_gateway_was_given_may_be_acknowledged_before_its_row_is_stored
            a_stored_row_is_pending_in_app_until_more_is_known_of_it
            pending_never_hides_an_outcome
            a_channels_state_only_moves_forward_and_shows_its_last_attempt
            a_channels_attempt_told_twice_says_the_same
            what_a_provider_reports_moves_a_channels_state_on_whenever_it_comes
            a_device_is_entered_replaced_and_removed_by_its_id
            an_address_that_is_of_one_user_at_a_time_is_taken_from_whoever_had_it
            a_device_that_was_entered_anew_is_not_removed_as_gone
            a_device_in_quarantine_stays_entered_until_it_is_let_out
            a_device_that_is_entered_anew_leaves_quarantine_and_is_in_nobodys_way
            devices_in_quarantine_are_listed_by_kind_and_page_by_page
            devices_of_a_user_are_bounded_and_those_of_others_are_not_seen
            preferences_are_those_entered_last_and_of_who_said_nothing_the_default
            what_is_switched_off_at_once_stands_beside_what_was_said_before
            an_address_is_suppressed_until_it_is_removed_and_all_of_them_are_listed_once
            the_latest_states_of_a_user_come_newest_first
            an_idempotency_key_is_claimed_once_until_it_is_done
            an_idempotency_key_with_another_body_conflicts
            an_idempotency_key_is_free_after_a_day
            a_claim_given_back_is_free_but_a_finished_one_stays
            producers_do_not_share_idempotency_keys
            what_was_done_with_a_dead_letter_first_stays_and_is_of_that_one_only
            what_is_scheduled_comes_when_it_is_due_and_to_one_at_a_time
            what_is_scheduled_can_be_cancelled_until_it_is_taken
            what_is_of_before_an_erasure_is_removed_and_what_is_of_after_stays
            an_erasure_is_known_until_it_has_its_proof_and_after
            all_there_is_of_a_user_is_found
            a_segment_has_its_users_once_and_in_an_order_that_stays
            a_send_to_a_segment_is_at_one_place_and_goes_on_where_it_stood
            a_send_to_a_segment_can_be_cancelled_until_it_is_done
            a_dismissed_broadcast_counts_as_seen_for_its_user_only
            an_api_key_is_found_by_its_hash
        }
    };
    ($home:expr => $($sentence:ident)*) => {$(
        #[tokio::test]
        async fn $sentence() {
            $crate::behaviour::$sentence(&$home).await;
        }
    )*};
}
pub(crate) use every_behaviour_holds_in;

fn offsets(rows: &[Row]) -> Vec<u64> {
    rows.iter().map(|row| row.pos.offset()).collect()
}

fn prev_of(answer: &Appended) -> Position {
    match answer {
        Appended::Stored { prev } => *prev,
        other => panic!("not stored anew: {other:?}"),
    }
}
