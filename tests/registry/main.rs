//! The registry's behaviour: one suite for Redis (a real one) and for the table in process.
//!
//! Nothing waits for time to pass where it need not: a lease of 0 ms has lapsed when it is granted, one of a
//! minute never does within a test.

mod access;
mod connections;
mod finishing;
mod leases;
mod orders;
mod outage;
mod quota;
mod sends;
mod shards;
mod spend;
mod subject;
mod sweep;

/// Makes every behaviour a test of both registries.
macro_rules! on_both {
    ($($module:ident { $($behaviour:ident)* })*) => {
        mod on_redis {
            $(mod $module {$(
                #[tokio::test]
                async fn $behaviour() {
                    crate::$module::$behaviour(crate::subject::Subject::redis()).await;
                }
            )*})*
        }
        mod in_process {
            $(mod $module {$(
                #[tokio::test]
                async fn $behaviour() {
                    crate::$module::$behaviour(crate::subject::Subject::in_process()).await;
                }
            )*})*
        }
    };
}

on_both! {
    leases {
        epochs_rise_with_every_life
        epochs_rise_even_after_the_registry_came_back_empty
        a_held_id_is_refused_with_the_holder_named_and_the_wait_stated
        a_restart_after_kill_9_gets_its_id_when_the_lease_has_run_out
        a_process_that_lost_its_epoch_takes_a_new_one_without_waiting
        a_lapsed_lease_goes_on_under_its_epoch
        an_older_life_learns_that_it_was_replaced
        a_swept_lease_is_lost_and_the_next_epoch_lies_above_the_swept_one
        a_released_id_is_free_at_once
        a_renewal_that_comes_after_the_release_does_not_revive_the_lease
        a_renewal_puts_an_absent_record_back_under_its_epoch
        what_a_gateway_publishes_is_seen_with_its_lease
        one_orders_at_a_time_and_a_lock_ends_by_itself
        a_lease_that_is_not_renewed_for_half_its_time_is_overdue_and_lives
    }
    quota {
        a_user_is_sent_so_many_and_no_more
        what_was_admitted_is_admitted_again_and_counts_once
        what_is_longer_ago_than_the_window_counts_no_more
        a_rate_is_drawn_from_by_all_and_never_gives_more_than_its_burst
        what_is_taken_without_asking_is_owed_by_the_others
    }
    sends {
        a_send_is_one_claims_at_a_time
        a_send_whose_owner_died_is_free_once_its_lease_has_ended
        what_was_sent_is_not_claimed_again
        sends_of_other_devices_and_channels_are_claimed_apart
    }
    spend {
        a_days_sum_rises_to_its_limit_and_not_above
        channels_and_days_are_summed_apart
    }
    shards {
        an_automatic_claim_takes_the_lowest_free_shard
        a_claim_with_every_shard_held_says_so
        a_held_shard_is_refused_with_its_owner_named
        the_shard_of_a_lapsed_owner_goes_to_whoever_claims_it
        a_lapsed_owner_goes_on_when_nobody_claimed_its_shard
        a_claim_on_an_absent_record_waits_until_it_is_claimable
        an_automatic_claim_makes_all_absent_records_wait_at_once
        a_claim_that_shows_a_former_epoch_is_granted_on_an_absent_record
        a_higher_former_epoch_replaces_a_lower_one
        a_renewal_puts_an_absent_shard_record_back_under_its_epoch
        a_restarted_gateway_takes_up_its_own_shard_before_a_lower_free_one
        an_older_life_can_not_take_the_shard_from_a_newer_one
        a_claim_that_is_repeated_is_the_same_lease
        a_released_shard_is_free_at_once
    }
    finishing {
        a_shard_whose_owner_is_gone_is_held_by_one_finisher_at_a_time
        a_live_owner_and_the_time_after_its_lease_are_respected
        a_finisher_claims_an_absent_record_after_the_gateways_had_their_time
        a_gateway_that_wants_the_shard_gets_it_when_the_finisher_yields
        a_shard_that_was_finished_goes_back_to_its_last_owner
        a_free_shard_is_taken_before_one_that_is_being_finished
        a_finisher_learns_that_a_gateway_came_back_with_the_registry_empty
        every_order_of_claims_yields_and_a_kill_leaves_one_owner_at_a_time
    }
    connections {
        a_registered_user_is_found_at_every_gateway_that_entered_them
        a_user_nobody_entered_has_no_route
        a_lapsed_gateway_is_still_a_route_to_its_shard
        a_gateway_without_a_shard_is_a_route_without_one
        the_newest_life_of_a_gateway_is_the_route
        a_late_removal_by_an_old_life_leaves_the_entry_of_the_new_one
        a_removal_with_an_old_stamp_does_nothing
        a_removal_takes_an_earlier_stamp_of_the_same_life_with_it
        registering_again_changes_nothing
        user_ids_with_odd_characters_are_kept_apart
        ten_thousand_users_go_in_and_out_in_batches
        missing_names_exactly_those_that_are_not_as_given
        a_life_that_was_replaced_can_enter_nobody
    }
    sweep {
        a_live_gateway_is_left_alone
        a_gateway_that_lapsed_a_moment_ago_is_left_alone
        a_lapsed_gateway_is_raised_once_and_its_entries_go
        a_swept_gateway_still_shows_where_its_shard_was
        a_sweep_stops_at_its_budget_and_goes_on_from_there
        a_released_gateway_is_swept_like_a_lapsed_one
        the_sweep_of_an_old_life_leaves_the_new_one_alone
        two_sweepers_do_no_harm_to_each_other
    }
    orders {
        every_order_of_sweep_return_reassertion_and_late_removal_ends_well
    }
}
