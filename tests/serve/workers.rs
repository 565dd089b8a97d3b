//! Persistent workers behind the door: the same process for many actions, each with its own inputs and nothing else;
//! and whatever a worker does wrong costs one action.
//!
//! `tests/workers/README.md` says which test shows which point of the acceptance list W1 to W17 and of the threat
//! catalog (6.9).

mod asking;
mod failing;
mod living;
mod multiplex;
pub mod scene;
mod sharing;

use crate::Alone;
use scene::on_epoll;

pub const ALONE: &[Alone] = &[
    ("workers::w1_one_process_for_many_actions", asking::one_process),
    ("workers::w2_flag_files_are_expanded", asking::flag_files),
    ("workers::w3_w4_mnemonics_share_workers_and_flags", asking::mnemonics),
    ("workers::strict_flag_files", asking::strict),
    ("workers::w9_another_tool_is_another_worker", asking::another_tool),
    ("workers::w9_files_that_change_are_named", asking::changed_files),
    ("workers::w10_w11_what_is_not_asked_for_is_not_there", asking::not_asked_for),
    ("workers::w11_no_variable_of_the_daemon_is_seen", asking::no_secrets),
    ("workers::a_hundred_thousand_inputs", asking::large_root),
    ("workers::w15_each_request_sees_its_own_inputs", sharing::own_inputs),
    ("workers::w15_a_shared_view_has_the_inputs_of_one_request", sharing::shared_view),
    ("workers::w13_t_w18_t_tenants_share_nothing", sharing::tenants),
    ("workers::w11_t_late_writes_reach_nobody", sharing::late_writes),
    ("workers::policy_may_refuse_to_cache", sharing::uncached),
    ("workers::w6_w8_a_crash_costs_one_action", failing::crashes),
    ("workers::a_crash_is_retried_as_far_as_allowed", failing::retries),
    ("workers::w7_what_is_no_response_costs_one_action", failing::nonsense),
    ("workers::w08_t_a_hang_ends_at_the_deadline", failing::hangs),
    ("workers::w12_t_a_flood_of_text_is_cut", failing::big_output),
    ("workers::w15_t_a_deaf_worker_that_floods_its_log_ends_at_the_deadline", failing::deaf),
    ("workers::w13_w17_t_out_of_memory_is_told_as_that", failing::out_of_memory),
    ("workers::what_nobody_asked_for_costs_nobody_anything", failing::unasked),
    ("workers::w14_t_a_cancel_that_is_never_answered_costs_the_worker", failing::unanswered_cancel),
    ("workers::w19_t_a_canceled_caller_is_free_and_the_worker_returns", failing::canceled),
    ("workers::multiplex_requests_have_a_directory_each", multiplex::directories),
    ("workers::w16_t_workers_of_one_kind_do_not_meet", multiplex::two_processes),
    ("workers::a_bad_answer_costs_its_own_request", multiplex::bad_answer),
    ("workers::a_crash_with_eight_requests_costs_one", multiplex::crash),
    ("workers::a_stopped_process_costs_one_request", multiplex::stopped),
    ("workers::a_late_request_is_canceled_and_the_others_stay", multiplex::late),
    ("workers::w5_each_build_has_its_own_workers", living::builds),
    ("workers::w12_all_are_stopped", living::clean),
    ("workers::w16_what_cannot_be_started_runs_by_itself", living::no_directory),
    ("workers::w17_logs_of_the_last_start_are_gone", living::old_logs),
    ("workers::idle_ones_are_frozen_and_then_stopped", living::idle),
    ("workers::memory_takes_idle_ones_the_largest_first", living::memory),
    ("workers::what_a_request_used_is_in_its_result", living::usage),
    ("workers::children_end_with_their_worker", living::children),
    ("workers::epoll::w1_one_process_for_many_actions", || on_epoll(asking::one_process)),
    ("workers::epoll::w2_flag_files_are_expanded", || on_epoll(asking::flag_files)),
    ("workers::epoll::w15_each_request_sees_its_own_inputs", || on_epoll(sharing::own_inputs)),
    ("workers::epoll::w6_w8_a_crash_costs_one_action", || on_epoll(failing::crashes)),
    ("workers::epoll::w7_what_is_no_response_costs_one_action", || on_epoll(failing::nonsense)),
    ("workers::epoll::w08_t_a_hang_ends_at_the_deadline", || on_epoll(failing::hangs)),
    ("workers::epoll::w12_t_a_flood_of_text_is_cut", || on_epoll(failing::big_output)),
    ("workers::epoll::w19_t_a_canceled_caller_is_free", || on_epoll(failing::canceled)),
    ("workers::epoll::multiplex_requests_have_a_directory_each", || on_epoll(multiplex::directories)),
    ("workers::epoll::a_stopped_process_costs_one_request", || on_epoll(multiplex::stopped)),
];
