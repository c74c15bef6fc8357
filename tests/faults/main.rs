//! What the product promises while the machine and the network do their worst.
//!
//! Most of these stories spend their time waiting: for a pause to end, for a silence
//! to be noticed. So they are told many at a time, whatever the number of cores.
//!
//! `FAULTS.md` beside this file says which fault is shown where, here and elsewhere.

mod attacks;
mod certificates;
mod clocks;
mod crash;
mod crowd;
mod files;
mod links;
mod pauses;
mod reloads;
mod table;
mod upstreams;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use qcc_tests::{Network, possible};

/// Stories that are told at the same time.
const AT_A_TIME: usize = 10;

/// A story: what it is called, and how it is told.
type Story = (&'static str, fn());

/// Lists functions by their names.
macro_rules! stories {
    ($($module:ident::$story:ident,)+) => {
        &[$((concat!(stringify!($module), "::", stringify!($story)), $module::$story as fn()),)+]
    };
}

/// The longest first.
const STORIES: &[Story] = stories! {
    crash::what_was_acknowledged_survives_a_crash_at_any_write,
    pauses::a_control_plane_that_freezes_for_60_s_costs_nothing,
    pauses::a_proxy_that_freezes_for_60_s_disturbs_nobody,
    pauses::an_upstream_that_freezes_for_60_s_is_left_and_used_again,
    crash::a_start_that_crashes_is_made_good_by_the_next,
    links::a_cut_both_ways_costs_nothing_and_heals,
    links::answers_that_are_lost_cost_nothing_and_count_once,
    links::requests_that_are_lost_cost_nothing_and_are_repeated,
    links::connections_that_are_reset_cost_nothing,
    links::connections_that_are_cut_after_some_bytes_cost_nothing,
    links::packets_that_are_lost_change_nothing,
    links::a_slow_link_holds_up_nobody_else,
    links::a_long_way_delays_what_is_known_and_nothing_else,
    upstreams::a_proxy_without_egress_takes_nothing_from_the_others,
    upstreams::a_name_that_fails_or_moves_concerns_its_endpoint_only,
    upstreams::no_name_leads_to_an_address_that_no_endpoint_may_have,
    upstreams::whoever_cannot_prove_who_it_is_gets_no_request,
    upstreams::an_endless_answer_passes_and_takes_no_memory,
    upstreams::a_head_that_is_too_long_is_left,
    upstreams::whoever_flaps_is_left_until_it_is_looked_at_again,
    upstreams::a_storm_of_overload_is_not_made_worse,
    clocks::no_jump_of_the_clock_changes_a_decision,
    attacks::ten_thousand_idle_connections_take_little_and_hold_nobody_up,
    attacks::heads_and_bodies_that_come_in_drops_end_and_hold_nobody_up,
    attacks::clients_that_do_not_read_are_left_and_hold_nobody_up,
    crowd::a_thousand_proxies_come_back_at_once_and_all_are_served,
    certificates::whoever_pretends_to_be_the_control_plane_is_not_believed,
    files::a_proxy_without_files_serves_who_is_there_and_then_others,
    files::a_control_plane_without_files_serves_who_is_there_and_then_others,
    reloads::a_bad_configuration_at_a_reload_changes_nothing_and_is_told,
    pauses::a_control_plane_that_freezes_for_10_s_costs_nothing,
    pauses::a_proxy_that_freezes_for_10_s_disturbs_nobody,
    pauses::an_upstream_that_freezes_for_10_s_is_left_and_used_again,
    pauses::a_control_plane_that_freezes_for_1_s_costs_nothing,
    pauses::a_proxy_that_freezes_for_1_s_disturbs_nobody,
    pauses::an_upstream_that_freezes_for_1_s_is_waited_for,
    table::every_test_in_the_table_exists,
};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_A_TIME);
    let trials = STORIES.iter().map(|&(name, tell)| {
        Trial::test(name, move || {
            tell();
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Tells a story on loopback.
fn story(story: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    runtime.block_on(story);
}

/// Tells a story on a network of its own, where that is possible.
fn in_network(untested: &str, story: impl AsyncFnOnce(Network) + Send) {
    let needed = "root, network namespaces, iproute2 and nftables";
    if possible(needed, Network::possible(), untested) {
        Network::run(story);
    }
}
